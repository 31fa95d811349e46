package entitlementstest

import (
	"net/http"
	"strings"
	"sync"
)

// family is one of the two families of the contract. It decides how errors look
// and which status tells a reused key.
type family uint8

const (
	familySDK family = iota
	familyCore
)

// familyOf tells the family by the token's prefix. What has neither is answered
// as the SDK family does, the default.
func familyOf(token string) family {
	if strings.HasPrefix(token, "sk_") {
		return familyCore
	}
	return familySDK
}

// version is the contract's version that the family's pages name.
func (f family) version() string {
	if f == familyCore {
		return "2026-04-01"
	}
	return "2026-05-01"
}

// tokenState is what a token may do. The zero value is that nobody knows it.
type tokenState uint8

const (
	tokenUnknown tokenState = iota
	tokenValid
	tokenForbidden
)

// tokens is which bearer tokens exist.
type tokens struct {
	mu    sync.RWMutex // guards known
	known map[string]tokenState
}

// put replaces the state of a token.
func (t *tokens) put(token string, state tokenState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = make(map[string]tokenState)
	}
	t.known[token] = state
}

// of finds the state of a request's token, and its family.
func (t *tokens) of(r *http.Request) (tokenState, family) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return tokenUnknown, familySDK
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.known[token], familyOf(token)
}
