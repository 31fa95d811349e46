package entitlements

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallSegment is a segment with some frames, cut to what is used of it.
func smallSegment(t testing.TB) (data []byte, frames []frame) {
	t.Helper()
	s := &segment{mem: make([]byte, 4096), size: 4096, next: segmentHeader, mapped: true}
	putHeader(s.mem, [segmentID]byte{1, 2, 3})
	for _, f := range []frame{
		{customer: "a", feature: "api", stamp: 1e18, quantity: 5, calls: 1, stage: stagePending},
		{id: "mine", customer: "b", feature: "export", stamp: 2e18, quantity: -7, calls: 1, stage: stagePending, properties: map[string]string{"k": "v", "": "\xff"}},
		{customer: "c", feature: "api", stamp: 3e18, quantity: 1 << 40, calls: 300, stage: stageSent, unknown: 1_700_000_000, first: 1_600_000_000},
		{customer: "d", feature: "api", stamp: 4e18, quantity: 2, calls: 1, stage: stagePending},
	} {
		s.commitLocked(&f)
		if f.customer == "d" {
			for range 6 {
				f.quantity, f.calls = f.quantity+3, f.calls+1
				s.count(f.at, f.quantity, f.calls)
			}
		}
		if f.id == "" {
			f.id = frameID(prefixOf([segmentID]byte{1, 2, 3}), f.at)
		}
		frames = append(frames, f)
	}
	return s.mem[:s.next], frames
}

func framesOf(data []byte) (frames []frame, damaged int, err error) {
	prefix, whole, err := readHeader(data)
	if err != nil {
		return nil, 0, err
	}
	damaged = readSegment(data, prefix, func(f frame) { frames = append(frames, f) })
	if !whole && damaged == 0 {
		err = errCut
	}
	return frames, damaged, err
}

func TestSpoolFormat_ReadsWhatWasWritten(t *testing.T) {
	data, want := smallSegment(t)
	got, damaged, err := framesOf(append(data, make([]byte, 4096-len(data))...))
	require.NoError(t, err)
	require.Zero(t, damaged)
	require.Equal(t, want, got)
}

// Whatever bit is another, a record is as it was, or damage is told of: none is
// different, and none is gone without a word.
func TestSpoolFormat_ABitThatFlippedIsFound(t *testing.T) {
	clean, want := smallSegment(t)
	clean = append(clean, make([]byte, 4096-len(clean))...)
	for bit := range len(clean) * 8 {
		data := append([]byte(nil), clean...)
		data[bit/8] ^= 1 << (bit % 8)
		got, damaged, err := framesOf(data)
		if err == nil && damaged == 0 {
			require.Equal(t, want, got, "bit %d", bit)
			continue
		}
		for _, f := range got {
			i := 0
			for i < len(want) && want[i].at != f.at {
				i++
			}
			require.Less(t, i, len(want), "bit %d: a record that nobody wrote", bit)
			f.stage, f.unknown, f.first = want[i].stage, want[i].unknown, want[i].first // unknown since ever
			if f.calls == want[i].calls-1 {
				f.quantity, f.calls = want[i].quantity, want[i].calls // the call before
			}
			require.Equal(t, want[i], f, "bit %d", bit)
		}
	}
}

func TestSpoolFormat_AnEndThatIsMissingIsFound(t *testing.T) {
	clean, want := smallSegment(t)
	used := len(clean)
	clean = append(clean, make([]byte, 4096-used)...)
	for n := range clean {
		got, damaged, err := framesOf(clean[:n])
		require.True(t, err != nil || damaged > 0, "length %d", n)
		require.LessOrEqual(t, len(got), len(want))
		for i := range got {
			require.Equal(t, want[i], got[i], "length %d", n)
		}
		if n >= used {
			require.Len(t, got, len(want), "length %d", n)
		}
	}
}

// A process is killed between any two stores of a call that counts: what had
// returned is there, and nothing looks damaged.
func TestSpoolFormat_ACountThatWasCutOffIsTheOneBefore(t *testing.T) {
	for calls := uint32(1); calls < 5; calls++ {
		s := &segment{mem: make([]byte, 4096), size: 4096, next: segmentHeader, mapped: true}
		putHeader(s.mem, [segmentID]byte{})
		f := frame{customer: "a", feature: "api", quantity: 10, calls: 1, stage: stagePending}
		s.commitLocked(&f)
		for n := uint32(2); n <= calls; n++ {
			s.count(f.at, 10*int64(n), n)
		}
		half := f.at + frameCount + 16*int((calls+1)&1)
		words.PutUint64(s.mem[half:], uint64(10*(calls+1))) // and the word after it not any more
		got, damaged, err := framesOf(s.mem)
		require.NoError(t, err)
		require.Zero(t, damaged)
		require.Len(t, got, 1)
		require.Equal(t, calls, got[0].calls)
		require.EqualValues(t, 10*calls, got[0].quantity)
	}
}

// Likewise while it began a record: everything but the commit is there.
func TestSpoolFormat_AFrameThatWasCutOffIsNone(t *testing.T) {
	data, want := smallSegment(t)
	end := len(data)
	data = append(data, make([]byte, 4096-end)...)
	for _, properties := range []map[string]string{nil, {"pad": strings.Repeat("x", 2000)}} {
		f := frame{at: end, id: "cut", customer: "e", feature: "api", quantity: 1, calls: 1, stage: stagePending, properties: properties}
		clear(data[end:])
		f.put(data)
		for cut := range len(data) - end { // and less and less of it
			data[len(data)-1-cut] = 0
			got, damaged, err := framesOf(data)
			require.NoError(t, err)
			require.Zero(t, damaged)
			require.Equal(t, want, got)
		}
	}
}

func FuzzSpoolReader(f *testing.F) {
	clean, _ := smallSegment(f)
	f.Add(clean)
	f.Add(append(clean, make([]byte, 512)...))
	f.Add(clean[:len(clean)-3])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		end := segmentHeader
		damaged := readSegment(data, "x-", func(f frame) {
			require.GreaterOrEqual(t, f.at, end)
			require.NotEmpty(t, f.id)
			require.True(t, validKey(f.customer) && validKey(f.feature))
			require.LessOrEqual(t, f.stage, stageSettled)
			end = f.at + frameFixed
			// What was read can be written, and is read as the same.
			again := f
			again.at = segmentHeader
			b := make([]byte, segmentHeader+again.sizeOf())
			w := again.put(b)
			words.PutUint64(b[segmentHeader:], w)
			got, _, _, ok := readFrame(b, segmentHeader, "x-")
			require.True(t, ok)
			require.True(t, maps.Equal(again.properties, got.properties), fmt.Sprint(again.properties))
			got.properties, again.properties = nil, nil
			require.Equal(t, again, got)
		})
		require.LessOrEqual(t, damaged, max(len(data), 16*len(data)/frameFixed+16))
	})
}
