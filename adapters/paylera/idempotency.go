package paylera

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync"
)

const (
	maxIdempotencyKey = 255
	// Keys that got an error answer lately. Forgetting one costs a request: the
	// stored answer comes once more, and the count starts again from there.
	rememberedKeys = 10_000
)

// keyring chooses the Idempotency-Key of every POST.
//
// The API keeps a key for 24 h and repeats the stored answer for it, a stored
// error included. Hence two cases:
//
//   - The body dedupes by itself (external_id). A key that got an error answer
//     would only get it again, so that the next attempt takes a new one; should
//     the first have been carried out after all, the body is recognised.
//   - The key is all that dedupes. It never changes, even though a stored 5xx is
//     then repeated until the record is parked as in doubt: a new key could bill
//     twice.
//
// After a transport failure there is no stored answer to fear and perhaps a
// running request to meet again: the key stays, always.
//
// Source: docs.paylera.com, /api/idempotency.
type keyring struct {
	renews bool // the body dedupes by itself

	// mu guards tries: how many error answers each key got.
	mu    sync.Mutex
	tries *recent[string, int]
}

func newKeyring(renews bool) *keyring {
	return &keyring{renews: renews, tries: newRecent[string, int](rememberedKeys)}
}

// key is the header for a body with that id.
func (k *keyring) key(ctx context.Context, id string, single bool) string {
	if own, _ := ctx.Value(idempotencyKey).(string); single && isHeaderText(own) && len(own) <= maxIdempotencyKey {
		return own
	}
	k.mu.Lock()
	tries, _ := k.tries.get(id)
	k.mu.Unlock()
	if tries > 0 {
		return headerKey(id, "~retry-"+strconv.Itoa(tries+1))
	}
	return headerKey(id, "")
}

// failed notes an error answer to a body with that id.
func (k *keyring) failed(id string) {
	if !k.renews {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	tries, _ := k.tries.get(id)
	k.tries.put(id, tries+1)
}

// headerKey makes an id fit for a header. Ids are opaque bytes: one with a line
// break, or one that is too long with its suffix, travels as its hash.
func headerKey(id, suffix string) string {
	if isHeaderText(id) && len(id)+len(suffix) <= maxIdempotencyKey {
		return id + suffix
	}
	return "sha256-" + hash(id) + suffix
}

// wireID makes an id fit for JSON, which has no room for bytes that are not
// UTF-8: they would all become the same replacement character, and different
// records the same record.
func wireID(id string) string {
	if isWireText(id) {
		return id
	}
	return "sha256-" + hash(id)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
