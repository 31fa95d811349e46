package entitlementstest

import (
	"encoding/base64"
	"encoding/json"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ETag says what the entity tag of an entitlements response covers. The pages
// promise none.
type ETag uint8

const (
	// ETagAll covers all but as_of: usage makes a new tag, so that a 304 hides
	// none of it.
	ETagAll ETag = iota

	// ETagContent covers all but usage and as_of.
	ETagContent

	// ETagNone sends no tag.
	ETagNone
)

const (
	defaultPage = 25
	largestPage = 100
)

// entitlements answers GET /v1/subscriptions/{id}/entitlements.
func (b *Billing) entitlements(x *exchange) answer {
	v, ok := b.ledger.view(x.id, b.Now)
	if !ok {
		return x.problem(problemNotFound())
	}
	// Encoded apart from the rest, since the entity tag is made of just this.
	features := encode(b.features(v))
	tag := b.etag(v, features)
	if tag != "" && matches(x.r.Header.Get("If-None-Match"), tag) {
		return answer{status: http.StatusNotModified, etag: tag}
	}
	body := encode(struct {
		Subscription string          `json:"subscription_id"`
		Customer     string          `json:"customer_id"`
		Plan         string          `json:"plan,omitempty"`
		AsOf         string          `json:"as_of"`
		Features     json.RawMessage `json:"features"`
	}{v.id, v.customer, v.plan, v.asOf.UTC().Format(time.RFC3339Nano), features})
	return answer{status: http.StatusOK, contentType: "application/json", etag: tag, body: body}
}

// etag is weak: as_of differs between two answers with the same tag.
func (b *Billing) etag(v view, features []byte) string {
	switch b.cfg.ETag {
	case ETagNone:
		return ""
	case ETagContent:
		return `W/"c` + strconv.FormatUint(v.version, 10) + `"`
	}
	sum := fnv.New64a()
	_, _ = sum.Write(features)
	return `W/"` + strconv.FormatUint(v.version, 10) + "-" + strconv.FormatUint(sum.Sum64(), 16) + `"`
}

// matches is If-None-Match's weak comparison.
func matches(header, tag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

// subscriptionItem is one entry of a subscription list. (Assumption: the pages
// show the page's envelope, not these fields.)
type subscriptionItem struct {
	ID       string `json:"id"`
	Customer string `json:"customer_id"`
	Plan     string `json:"plan,omitempty"`
	Status   string `json:"status"`
}

// subscriptions answers GET /v1/subscriptions. The cursor is the last id of the
// page before: what is added or removed meanwhile shifts nothing.
func (b *Billing) subscriptions(x *exchange) answer {
	query := x.r.URL.Query()
	limit := defaultPage
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > largestPage {
			return x.problem(problemInvalid(fieldError{"limit", "must be 1 to 100"}))
		}
	}
	// Opaque to clients, as it says in the pages: nobody may build one.
	after, err := base64.RawURLEncoding.DecodeString(query.Get("cursor"))
	if err != nil {
		return x.problem(problemInvalid(fieldError{"cursor", "was not made by this API"}))
	}
	rows, more := b.ledger.page(string(after), limit)
	page := struct {
		Data []subscriptionItem `json:"data"`
		More bool               `json:"has_more"`
		Next *string            `json:"next_cursor"`
	}{Data: make([]subscriptionItem, 0, len(rows)), More: more}
	for _, row := range rows {
		page.Data = append(page.Data, subscriptionItem{row.id, row.customer, row.plan, "active"})
	}
	if more {
		next := base64.RawURLEncoding.EncodeToString([]byte(rows[len(rows)-1].id))
		page.Next = &next
	}
	return answer{status: http.StatusOK, contentType: "application/json", body: encode(page)}
}

// check answers POST /v1/check: one feature, judged by the API itself.
// (Assumption: the pages name the route, not its body.)
func (b *Billing) check(x *exchange) answer {
	var request struct {
		Subscription string `json:"subscription_id"`
		Customer     string `json:"customer_id"`
		Feature      string `json:"feature_code"`
	}
	if err := json.Unmarshal(x.body, &request); err != nil {
		return x.problem(problemMalformed().because(err.Error()))
	}
	if request.Feature == "" {
		return x.problem(problemInvalid(fieldError{"feature_code", "is required"}))
	}
	// A subscription is exact, so it wins; a customer id has one here.
	id := request.Subscription
	if id == "" {
		id, _ = b.ledger.byCustomer(request.Customer)
	}
	v, ok := b.ledger.view(id, b.Now)
	if !ok {
		return x.problem(problemNotFound())
	}
	f, granted := v.features[request.Feature]
	reason := f.verdict(granted, v.asOf)
	body := map[string]any{
		"subscription_id": v.id,
		"customer_id":     v.customer,
		"feature_code":    request.Feature,
		"allowed":         reason == "granted" || reason == "overage",
		"reason":          reason,
		"as_of":           v.asOf.UTC().Format(time.RFC3339Nano),
	}
	if granted {
		body["feature"] = b.item(request.Feature, f)
	}
	return answer{status: http.StatusOK, contentType: "application/json", body: encode(body)}
}
