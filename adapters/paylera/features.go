package paylera

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/entitlements-go/entitlements"
)

// answer is a subscription's entitlements as the API tells them.
type answer struct {
	subscription string
	plan         string
	features     map[string]entitlements.Grant
	asOf         time.Time
}

// decodeAnswer reads the body of GET /v1/subscriptions/{id}/entitlements.
//
// features is a map code → item or an array of items that carry their code;
// where a code comes twice the last one counts, as everywhere in JSON. Unknown
// members and unknown kinds are passed over. A known member that can't be read
// is an error: taking an unreadable limit for an absent one could grant without
// end, and the Client does better with what it had before. So is a body without
// features, which is never "no features".
//
// Source: docs.paylera.com, /sdks/entitlements. The pages promise neither the
// shape nor the keys of an item; the spellings here are those of their examples.
// Assumption: as_of, plan and subscription_id, all optional.
func decodeAnswer(body []byte, decimals map[string]int) (*answer, error) {
	var wire struct {
		Subscription loose           `json:"subscription_id"`
		Plan         planName        `json:"plan"`
		AsOf         scalar          `json:"as_of"`
		Features     json.RawMessage `json:"features"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return nil, err
	}
	a := &answer{subscription: string(wire.Subscription), plan: string(wire.Plan)}
	var err error
	if a.asOf, err = parseMoment(wire.AsOf.text); err != nil {
		return nil, fmt.Errorf("as_of: %w", err)
	}
	switch firstByte(wire.Features) {
	// Both shapes are complete answers, the empty ones included: a customer whose
	// plan has nothing in it.
	case '{':
		a.features, err = decodeFeatureMap(wire.Features, decimals)
	case '[':
		a.features, err = decodeFeatureList(wire.Features, decimals)
	case 0, 'n':
		err = errors.New("features: missing")
	default:
		err = errors.New("features: neither an object nor an array")
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func decodeFeatureMap(raw json.RawMessage, decimals map[string]int) (map[string]entitlements.Grant, error) {
	// Item by item, since each may be a bare value of any type.
	var items map[string]json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, err
	}
	features := make(map[string]entitlements.Grant, len(items))
	for code, raw := range items {
		grant, err := decodeItem(raw, decimals[code])
		if err != nil {
			return nil, fmt.Errorf("feature %q: %w", cut(code, entitlements.MaxKeyLength), err)
		}
		features[code] = grant
	}
	return features, nil
}

func decodeFeatureList(raw json.RawMessage, decimals map[string]int) (map[string]entitlements.Grant, error) {
	var items []item
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, err
	}
	features := make(map[string]entitlements.Grant, len(items))
	for i := range items {
		code := first(items[i].Code, items[i].FeatureCode)
		if code == "" {
			// Passing over it could be passing over a refusal.
			return nil, fmt.Errorf("features[%d]: neither code nor feature_code", i)
		}
		grant, err := items[i].grant(decimals[code])
		if err != nil {
			return nil, fmt.Errorf("feature %q: %w", cut(code, entitlements.MaxKeyLength), err)
		}
		features[code] = grant
	}
	return features, nil
}

// decodeItem reads an item of the map shape, which may be a bare value: true
// and false switch a feature, a number is a numeric grant, a string a text.
// null grants nothing.
func decodeItem(raw json.RawMessage, decimals int) (entitlements.Grant, error) {
	switch c := firstByte(raw); c {
	case '{':
		var it item
		if err := json.Unmarshal(raw, &it); err != nil {
			return entitlements.Grant{}, err
		}
		return it.grant(decimals)
	case 't', 'f':
		return entitlements.Grant{Kind: entitlements.KindBoolean, Enabled: c == 't'}, nil
	case 'n':
		return entitlements.Grant{}, nil
	case '"':
		var text string
		err := json.Unmarshal(raw, &text)
		return entitlements.Grant{Kind: entitlements.KindText, Enabled: true, Text: text}, err
	case '[':
		return entitlements.Grant{}, errors.New("an array is no item")
	}
	// Nothing else is left but a number: the JSON itself is known to be valid.
	n, err := parseDecimal(string(raw), decimals, roundDown)
	return entitlements.Grant{Kind: entitlements.KindNumeric, Enabled: true, Limit: n}, err
}

// scalar is a JSON number, or a string that holds one or a time: the API writes
// large quantities as strings. Its digits are kept as they are. null is absent.
type scalar struct{ text string }

func (s *scalar) UnmarshalJSON(b []byte) error {
	switch firstByte(b) {
	case 'n':
		return nil
	case '"':
		// Whether the text is a number or a time is for the reader of the member to
		// say, who knows what it has to be.
		if err := json.Unmarshal(b, &s.text); err != nil {
			return err
		}
		s.text = strings.TrimSpace(s.text)
		return nil
	case '{', '[', 't', 'f':
		return errors.New("neither a number nor a string")
	}
	s.text = string(b)
	return nil
}

// planName is a name, or an object that has one. Nothing is decided by it, so
// that anything else is no error.
type planName string

func (p *planName) UnmarshalJSON(b []byte) error {
	var name loose
	if firstByte(b) == '{' {
		// encoding/json matches names without regard to case.
		var plan struct{ Code, Name, ID loose }
		_ = json.Unmarshal(b, &plan)
		name = loose(first(plan.Code, plan.Name, plan.ID))
	} else {
		_ = json.Unmarshal(b, &name)
	}
	*p = planName(name)
	return nil
}

// firstByte tells the type of a JSON value; 0 without one.
func firstByte(raw []byte) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}
