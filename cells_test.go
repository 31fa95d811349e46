package entitlements

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is forgotten while a check looks at it is of no age.
func TestWhatIsForgottenHasNoAge(t *testing.T) {
	e := newEntry("a", 1)
	require.Zero(t, e.age(1000))
	e.fetched.Store(400)
	require.EqualValues(t, 600, e.age(1000))
}

// Where a call finds a place by the number of places and an array, the array is not
// the smaller one: with any numbers of features, and whatever grows meanwhile.
func TestCellsAreFoundInEveryArray(t *testing.T) {
	for _, step := range []int{1, 7, 64, 1023} {
		a := newAccount("c", 1)
		var numbers []int
		for i := range 200 {
			number := i * step % maxFeatures
			if a.cell(number) != nil {
				continue
			}
			numbers = append(numbers, number)
			o := a.obtainCellLocked(number)
			require.Equal(t, number, o.number())
			o.taken.Store(wordOf(number) | wordFlag)
			require.True(t, o.take(int64(number), 1, 0))
			for _, earlier := range numbers {
				require.Equal(t, earlier, a.cell(earlier).number())
				require.Same(t, a.openCell(earlier), a.obtainCellLocked(earlier))
				require.EqualValues(t, earlier, a.openCell(earlier).taken.Load()&takenUnits, "what it took moved with it")
			}
			require.Nil(t, a.cell(maxFeatures+1))
			require.Nil(t, a.openCell(maxFeatures+1))
		}
	}
}

// A call that meets the growth of the arrays is in the new one, or is refused.
func TestACellThatMovedTakesNothing(t *testing.T) {
	a := newAccount("c", 1)
	o := a.obtainCellLocked(0)
	o.taken.Store(wordOf(0) | wordFlag)
	a.obtainCellLocked(1)
	require.False(t, o.take(1, 1, 0))
	require.True(t, a.openCell(0).take(1, 1, 0))
}

// A word is full at its ends, and not past them.
func TestACellIsFullAtTheEndsOfItsWord(t *testing.T) {
	a := newAccount("c", 1)
	o := a.obtainCellLocked(maxFeatures - 1)
	o.taken.Store(wordOf(maxFeatures-1) | wordFlag)
	for o.take(cellUnits-1, 1, 0) {
	}
	require.Less(t, int64(takenUnits)-int64(o.taken.Load()&takenUnits), int64(cellUnits))
	require.Equal(t, maxFeatures-1, o.number())
	require.EqualValues(t, 128, o.calls())

	o.taken.Store(wordOf(maxFeatures-1) | wordFlag)
	calls := uint64(0)
	for o.take(0, 1, 0) {
		calls++
	}
	require.Equal(t, calls, o.calls())
	require.Equal(t, maxFeatures-1, o.number())
	require.Zero(t, o.taken.Load()&takenUnits)
}

// What a cell has moves from the open record to one that is sealed, to what was
// delivered, to a larger array, and to a meter, while checks look on without a lock:
// they see all of it in one place or in the other, never in neither or in both.
func TestRule15_ReadersNeverSeeHalfAMove(t *testing.T) {
	b := newBooks(nil, newFeatureIndex(), time.Second)
	b.requeue = func(*record) {}
	clock := newClock(4 * time.Second)
	p := newPlan(&Entitlements{Features: map[string]Grant{"api": {Kind: KindMetered, Enabled: true, Limit: 1000}}}, b.features)
	b.features.add([]string{"other"})
	e := newEntry("c", 1)
	e.storeLocked(p, packOwn(p, "", 0, 0, []figure{{fetched: 1, received: 1, horizon: 1}}, nil))
	const calls = 50
	for range 10_000 {
		a := newAccount("c", 1)
		a.showLocked(e, b)
		number := b.features.find("api")
		a.obtainCellLocked(number)
		var least, most atomic.Int64 // what a check may see
		var done atomic.Bool
		go func() {
			defer done.Store(true)
			var sealed *record
			for i := range int64(calls) {
				a.mu.Lock()
				o := a.openCell(number)
				switch i {
				case 0:
					o.taken.Store(wordOf(number) | wordFlag)
					a.busyLocked(1)
				case 20:
					sealed = new(record)
					o.sealLocked(a, sealed, b)
					o.taken.Store(wordOf(number) | wordFlag)
					a.busyLocked(1)
				case 30:
					a.obtainCellLocked(b.features.find("other"))
				case 40:
					sealed.acked = 1000
					must(a.ackCellLocked(sealed, b))
				case 45:
					a.promoteLocked(number, b)
				}
				most.Add(1)
				if m := a.meter("api"); m != nil {
					must(m.foldLocked(1))
				} else {
					must(a.openCell(number).take(1, 1, 0))
				}
				least.Add(1)
				a.mu.Unlock()
			}
		}()
		for !done.Load() { // no require: looks are to be many
			low := least.Load()
			r, _, known := a.read("api", b.features, clock)
			if high := most.Load(); !known || r.used < low || r.used > high {
				t.Fatalf("a check saw %d (%t), of %d to %d", r.used, known, low, high)
			}
		}
	}
}

// must is require.True for other goroutines than the test's.
func must(ok bool) {
	if !ok {
		panic("it is false")
	}
}

// From the moment at which an account is shown figures, until its entry shows them,
// nobody counts: a meter that was made in between would know the figures from
// before.
func TestFiguresAreShownInOneStep(t *testing.T) {
	src := Static(map[string]*Entitlements{"a": {Features: map[string]Grant{"api": {Kind: KindMetered, Enabled: true, Limit: 10}}}})
	c, err := New(Config{Source: src, Sink: SinkFunc(func(context.Context, Batch) error { return nil })})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(t.Context())) }()
	_, err = c.Load(t.Context(), "a")
	require.NoError(t, err)
	c.Track("a", "api", 1)
	hash := hashOf("a")
	e, a := c.cache.find(hash, "a"), c.usage.books.find(hash, "a")
	e.mu.Lock()
	defer e.mu.Unlock()
	p, o := e.content()
	c.loader.attach(hash, e, p, o.figures(nil), func(bool) {
		require.False(t, a.mu.TryLock(), "Use, in between, would make a meter")
	})
}

// An account that somebody else made a moment ago, and has yet to show to its entry,
// takes no call that a check would not see.
func TestWhatIsTrackedIsSeenThoughTheAccountIsNew(t *testing.T) {
	const customer, feature = "acme", "api"
	c, err := New(Config{
		Source: Static(map[string]*Entitlements{customer: {
			Customer: customer, Plan: "p", Features: map[string]Grant{feature: {Kind: KindMetered, Enabled: true, Limit: 100}},
		}}),
		Sink: &nothingSink{},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(t.Context())) }()
	_, err = c.Load(t.Context(), customer)
	require.NoError(t, err)
	hash := hashOf(customer)
	s := &c.usage.books.shards[hash%uint64(len(c.usage.books.shards))]
	s.mu.Lock()
	s.accounts.add(hash, newAccount(customer, hash))
	s.mu.Unlock()
	c.Track(customer, feature, 5)
	require.EqualValues(t, 5, c.Decide(customer, feature).Used)
}

type nothingSink struct{}

func (*nothingSink) Deliver(context.Context, Batch) error { return nil }
