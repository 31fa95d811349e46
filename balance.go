package entitlements

import "sync"

// The balance moves the border between the cache's two halves: the window, which
// keeps who was used last, and ristretto, which keeps who is used most. Where the
// same customers stay popular the second guesses better; where they come and go,
// the first does.
//
// Each half leaves ghosts: a fingerprint of who left it, and when. A customer that
// comes back soon after would still be there, had that half been larger, so each
// return moves the border by a little. Ghosts are two bytes each, a quarter as many
// as customers for either half, and overwrite each other: half as many are young
// enough to count.
type balance struct {
	unit        uint32  // times that are told apart are this many departures long
	least, most float64 // sizes of the window

	mu     sync.Mutex // guards the fields below; taken after all others
	ghosts [halves][]uint16
	left   [halves]uint32
	window float64 // the size that the returns ask for
}

type half uint8

const (
	halfWindow half = iota
	halfPolicy
	halves
)

const (
	// ghostUnits is how many units pass while the cache is exchanged once, and
	// ghostReach for how many of them a return counts.
	ghostUnits = 64
	ghostReach = 8

	// ghostTimes is how many units a ghost tells apart.
	ghostTimes = 32

	// borderStep is how far a return moves the border, in customers.
	borderStep = 4

	// mostWindow leaves enough to ristretto to see when it should have more.
	mostWindow = 0.9
)

func newBalance(customers, window int) *balance {
	b := &balance{
		unit:  uint32(max(1, customers/ghostUnits)),
		least: float64(window), most: mostWindow * float64(customers), window: float64(window),
	}
	for i := range b.ghosts {
		b.ghosts[i] = make([]uint16, customers/4+1)
	}
	return b
}

// place is where the ghost of a customer is, and its fingerprint: not 0, which is
// no ghost at all.
func (b *balance) place(hash uint64, from half) (ghost *uint16, mark uint16) {
	g := b.ghosts[from]
	return &g[hash%uint64(len(g))], uint16(hash>>48) | ghostTimes
}

// leave notes that a customer made room.
func (b *balance) leave(hash uint64, from half) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left[from]++
	ghost, mark := b.place(hash, from)
	*ghost = mark&^(ghostTimes-1) | uint16(b.left[from]/b.unit%ghostTimes)
}

// comeBack hears of a customer that is added, moves the border if that one has left
// not long ago, and returns the size that the window should have.
func (b *balance) comeBack(hash uint64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isYoung(hash, halfWindow) {
		b.window = min(b.window+borderStep, b.most)
	}
	if b.isYoung(hash, halfPolicy) {
		b.window = max(b.window-borderStep, b.least)
	}
	return int(b.window)
}

// isYoung reports whether a customer left a half not long ago. b.mu is held.
func (b *balance) isYoung(hash uint64, from half) bool {
	ghost, mark := b.place(hash, from)
	if (*ghost^mark)&^(ghostTimes-1) != 0 {
		return false
	}
	age := (b.left[from]/b.unit - uint32(*ghost)) % ghostTimes
	return age <= ghostReach
}
