package entitlementstest

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"
)

// idempotencyKeys is the store of responses by Idempotency-Key. Its scope is
// route and key; there is one tenant.
//
// A stored error is replayed like any other response, as the pages say. So a
// client that keeps its key after a received 5xx gets that 5xx for a day.
type idempotencyKeys struct {
	window time.Duration
	most   int

	mu     sync.Mutex // guards the fields below
	byKey  map[idempotencyKey]*list.Element
	oldest *list.List // of *idempotencyEntry, oldest first
	count  int        // of replays
}

type idempotencyKey struct {
	route Route
	key   string
}

type idempotencyEntry struct {
	key    idempotencyKey
	body   [sha256.Size]byte // of the request
	at     time.Time
	done   bool // false while the first request still runs
	events int  // usage events that the response accepted
	answer answer
}

type idempotencyState int

const (
	keyNew idempotencyState = iota
	keyReplay
	keyRunning
	keyOtherBody
)

func (k *idempotencyKeys) init(window time.Duration, most int) {
	k.window, k.most = window, most
	k.byKey = make(map[idempotencyKey]*list.Element)
	k.oldest = list.New()
}

// begin claims a key for a request, or says what stands in its way. A claim must
// end in finish or abandon.
func (k *idempotencyKeys) begin(key idempotencyKey, body [sha256.Size]byte, now time.Time) (idempotencyState, answer, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if element := k.byKey[key]; element != nil {
		entry := element.Value.(*idempotencyEntry)
		switch {
		case now.Sub(entry.at) >= k.window:
			k.dropLocked(element)
		case entry.body != body:
			// Told before "in progress": the second request is wrong whatever
			// becomes of the first.
			return keyOtherBody, answer{}, 0
		case !entry.done:
			return keyRunning, answer{}, 0
		default:
			k.count++
			return keyReplay, entry.answer, entry.events
		}
	}
	for k.oldest.Len() >= k.most {
		k.dropLocked(k.oldest.Front())
	}
	// Old keys go as new ones come, so that a long run does not gather a day of
	// them only to look at none again.
	for front := k.oldest.Front(); front != nil && now.Sub(front.Value.(*idempotencyEntry).at) >= k.window; front = k.oldest.Front() {
		k.dropLocked(front)
	}
	k.byKey[key] = k.oldest.PushBack(&idempotencyEntry{key: key, body: body, at: now})
	return keyNew, answer{}, 0
}

func (k *idempotencyKeys) finish(key idempotencyKey, a answer, events int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if element := k.byKey[key]; element != nil {
		entry := element.Value.(*idempotencyEntry)
		entry.done, entry.answer, entry.events = true, a, events
	}
}

// abandon frees a key whose request came to nothing.
func (k *idempotencyKeys) abandon(key idempotencyKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if element := k.byKey[key]; element != nil && !element.Value.(*idempotencyEntry).done {
		k.dropLocked(element)
	}
}

func (k *idempotencyKeys) dropLocked(element *list.Element) {
	delete(k.byKey, element.Value.(*idempotencyEntry).key)
	k.oldest.Remove(element)
}

func (k *idempotencyKeys) replays() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// Replays is how many requests were answered from a response stored under their
// Idempotency-Key.
func (b *Billing) Replays() int { return b.keys.replays() }
