package entitlements

import "time"

// suspect is whose usage was refused for good a moment ago.
type suspect struct{ customer, feature string }

const (
	// isolation is how long the usage of a suspect travels alone.
	isolation = int64(10 * time.Minute)

	// maxSuspects bounds the memory for them.
	maxSuspects = 1024
)

// suspectNow lets the usage of a record's feature travel alone for a while.
func (b *batcher) suspectNow(r *record, now int64, reason error) {
	b.mu.Lock()
	first := len(b.suspects) == 0
	b.suspectAddLocked(r, now)
	b.mu.Unlock()
	if first {
		b.cfg.Logger.Warn("entitlements: usage was refused for good", "feature", r.feature, "error", reason)
	}
}

func (b *batcher) suspectAddLocked(r *record, now int64) {
	key := suspect{r.account.customer(), r.feature}
	if _, known := b.suspects[key]; !known && len(b.suspects) >= maxSuspects {
		var soonest suspect
		for other, until := range b.suspects {
			if now >= until {
				delete(b.suspects, other)
			} else if end, ok := b.suspects[soonest]; !ok || until < end {
				soonest = other
			}
		}
		if len(b.suspects) >= maxSuspects {
			delete(b.suspects, soonest)
		}
	}
	b.suspects[key] = now + isolation
}

// suspectLocked reports whether a record must travel alone.
func (b *batcher) suspectLocked(r *record, now int64) bool {
	key := suspect{r.account.customer(), r.feature}
	until, ok := b.suspects[key]
	if ok && now >= until {
		delete(b.suspects, key)
	}
	return ok && now < until
}
