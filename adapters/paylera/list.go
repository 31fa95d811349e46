package paylera

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/entitlements-go/entitlements"
)

// pageSize is the most that the API gives at once.
const pageSize = 100

// List names all customers, for [entitlements.Client.Warm]: it pages through
// GET /v1/subscriptions and turns each subscription into its customer by
// Config.Customer. With Config.Subscriptions but without Config.Customer there
// is no way back, which is an error. A customer with several subscriptions
// comes several times.
//
// The next page is fetched while the caller works on this one: one goroutine,
// which is gone when the loop over the sequence is left, however it is left.
// Each page is retried as in Lookup; the first error ends the sequence. So does
// a cursor that comes back, which would go on for ever.
//
// Source: docs.paylera.com, /api/pagination. Assumption: an element is an object
// with id or subscription_id, or the id itself.
func (a *Adapter) List(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if a.config.Subscriptions != nil && a.config.Customer == nil {
			yield("", errors.New("paylera: Config.Customer is required to list customers when Config.Subscriptions is set"))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		current := a.prefetch(ctx, "")
		// Runs last: the goroutine that still fetches has ended when List has.
		defer func() { <-current.done }()
		defer cancel()

		seen := make(map[string]struct{})
		for {
			// The first page is waited for; later ones came while the caller worked.
			p, err := current.wait()
			if err != nil {
				yield("", err)
				return
			}
			if p.next != "" {
				if _, again := seen[p.next]; again {
					yield("", &Error{Endpoint: listEndpoint, Status: http.StatusOK, kind: ErrMalformed, Detail: "next_cursor came before: the pages go round"})
					return
				}
				// All cursors are kept, not only the last: a circle can be of any
				// length. A million subscriptions make ten thousand of them.
				seen[p.next] = struct{}{}
				// Before the keys are handed out: this is what runs meanwhile.
				current = a.prefetch(ctx, p.next)
			}
			for _, subscription := range p.subscriptions {
				customer, err := a.customerOf(ctx, subscription)
				if err != nil {
					yield("", err)
					return
				}
				// A subscription that nobody here has is not a customer to warm.
				if customer != "" && !yield(customer, nil) {
					return
				}
			}
			if p.next == "" {
				return
			}
		}
	}
}

const listEndpoint = "GET /v1/subscriptions"

// page is one page of subscriptions; next is "" on the last.
type page struct {
	subscriptions []string
	next          string
}

// pending is a page on its way.
type pending struct {
	done     chan struct{} // closed when the fields below are set
	page     page
	err      error
	panicked any
}

// prefetch starts to fetch the page at cursor, the first page at "".
func (a *Adapter) prefetch(ctx context.Context, cursor string) *pending {
	// The error stands until the request has ended in the usual way: an interceptor
	// may end the goroutine instead (runtime.Goexit), which is no page either.
	p := &pending{done: make(chan struct{}), err: errors.New("paylera: listing ended early")}
	// Owned by the List that called, which waits for it; ends with the request.
	go func() {
		defer close(p.done)
		defer func() { p.panicked = recover() }()
		p.page, p.err = retry(ctx, func() (page, error) { return a.listPage(ctx, cursor) })
	}()
	return p
}

// wait returns the page. A panic of an interceptor is raised again here, where
// the caller can recover it.
func (p *pending) wait() (page, error) {
	<-p.done
	if p.panicked != nil {
		panic(p.panicked)
	}
	return p.page, p.err
}

// listPage makes the one request for a page.
func (a *Adapter) listPage(ctx context.Context, cursor string) (page, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	r, err := a.transport.do(ctx, call{
		method: http.MethodGet, endpoint: "/v1/subscriptions", path: "/v1/subscriptions", query: query, class: classRead,
	})
	if err != nil {
		return page{}, err
	}
	p, err := decodePage(r.body)
	if err != nil {
		return page{}, &Error{Endpoint: listEndpoint, Status: r.status, kind: ErrMalformed, cause: a.transport.redactError(err)}
	}
	return p, nil
}

// decodePage reads one page. An element without an id is an error: a customer
// left out silently would be cold when it counts.
func decodePage(body []byte) (page, error) {
	var wire struct {
		Data       *[]json.RawMessage `json:"data"`
		HasMore    *bool              `json:"has_more"`
		NextCursor loose              `json:"next_cursor"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return page{}, err
	}
	if wire.Data == nil {
		return page{}, errors.New("data: missing")
	}
	var p page
	for i, raw := range *wire.Data {
		var element struct {
			ID             loose `json:"id"`
			SubscriptionID loose `json:"subscription_id"`
		}
		var id loose
		if firstByte(raw) == '{' {
			_ = json.Unmarshal(raw, &element)
			id = loose(first(element.ID, element.SubscriptionID))
		} else {
			_ = json.Unmarshal(raw, &id)
		}
		if id == "" {
			return page{}, fmt.Errorf("data[%d]: no id", i)
		}
		p.subscriptions = append(p.subscriptions, string(id))
	}
	// has_more decides; where it is missing a cursor says as much.
	switch {
	case wire.HasMore == nil:
		p.next = string(wire.NextCursor)
	case *wire.HasMore && wire.NextCursor == "":
		return page{}, errors.New("next_cursor: missing although has_more")
	case *wire.HasMore:
		p.next = string(wire.NextCursor)
	}
	return p, nil
}

// customerOf asks who has a subscription; "" is nobody here.
func (a *Adapter) customerOf(ctx context.Context, subscription string) (string, error) {
	if a.config.Customer == nil {
		if a.config.Subscriptions == nil {
			return subscription, nil
		}
		return "", nil
	}
	customer, err := a.config.Customer(ctx, subscription)
	switch {
	case errors.Is(err, entitlements.ErrUnknownCustomer):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("paylera: looking up the customer of a subscription: %w", err)
	}
	return customer, nil
}
