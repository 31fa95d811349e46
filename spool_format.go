package entitlements

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"strconv"
)

// What is on disk. A segment is a file of one size, made before it is used: a
// header, then frames, then zeros. A frame is a record. What never changes of it
// is under a CRC-32C; what does change, changes in place and by whole words, each
// with a check of its own, so that a process can be killed between any two
// stores. Words are in the machine's order: another machine's file is foreign.
//
//	header   0  8 "ENTSPOOL"
//	         8  4 version
//	        12  4 CRC-32C of bytes 16 to 36
//	        16 12 random: the beginning of the IDs of its records
//	        28  8 size of the file
//	        36    zeros up to 64
//
//	frame    0  8 commit: length, CRC-32C of bytes 8 to 24 and 72 to length; written last
//	         8  8 time of the usage, unix nanoseconds
//	        16  3 lengths of ID, customer and feature
//	        19  1 zero
//	        20  4 length of the properties
//	        24  8 stage: see stageWord
//	        32  8 first attempt: likewise
//	        40 16 count, when the number of calls is even: quantity, calls and check
//	        56 16 count, when it is odd: the one with more calls holds
//	        72    ID, customer, feature, properties, zeros up to 8 bytes
const (
	segmentMagic   = "ENTSPOOL"
	segmentVersion = 1
	segmentHeader  = 64
	segmentID      = 12
	segmentSuffix  = ".segment"

	frameFixed = 72
	frameTime  = 8
	frameSizes = 16
	frameStage = 24
	frameFirst = 32
	frameCount = 40
	frameMost  = 1 << 30 // bytes, of one record
)

var (
	words = binary.NativeEndian
	crc   = crc32.MakeTable(crc32.Castagnoli)

	errForeign = errors.New("its header is damaged, or of another version")
	errDamaged = errors.New("its checksums say so")
	errCut     = errors.New("its end is missing")
)

// frame is a record as it is on disk.
type frame struct {
	at                    int // in its segment
	id, customer, feature string
	stamp                 int64
	properties            map[string]string
	quantity              int64
	calls                 uint32
	stage                 stage
	unknown, first        int64 // unix seconds of attempts, 0 = none
}

// stage is how far a record has come, as far as the disk knows.
type stage uint8

const (
	stagePending stage = iota + 1 // certainly not accepted
	stageSent                     // maybe accepted, since its time
	stageSettled                  // nothing more to do: delivered, dropped, or parked
)

// stageWord is a stage and its time in unix seconds, 0 for none, with a check of
// both. salt is the frame's place, so that no other frame's word passes for it.
func stageWord(s stage, seconds int64, salt int) uint64 {
	w := uint64(seconds)<<2&stageBits | uint64(s)
	return w | mix(w, uint64(salt))&^stageBits
}

const stageBits = 1<<36 - 1 // and 28 of check

func readStage(w uint64, salt int) (s stage, seconds int64, ok bool) {
	s, seconds = stage(w&3), int64(w&stageBits>>2)
	return s, seconds, s != 0 && w == stageWord(s, seconds, salt)
}

// countWord is a number of calls, with 12 bits that check it and 20 that check it
// and the quantity: where only the latter are wrong, the quantity was being
// written when the process was killed.
func countWord(quantity int64, calls uint32, salt int) uint64 {
	return callsWord(calls, salt) | mix(uint64(quantity)^uint64(calls)<<32, uint64(salt))&^callsBits
}

const callsBits = 1<<44 - 1

// callsWord has another check for every number that differs in one bit.
func callsWord(calls uint32, salt int) uint64 {
	return uint64(calls) | uint64((calls^calls>>12^calls>>24^uint32(salt))&0xfff)<<32
}

// mix spreads every bit of a over the result (the finalizer of MurmurHash3).
func mix(a, salt uint64) uint64 {
	a += salt * 0x9e3779b97f4a7c15
	a = (a ^ a>>33) * 0xff51afd7ed558ccd
	a = (a ^ a>>33) * 0xc4ceb9fe1a85ec53
	return a ^ a>>33
}

// sizeOf is the length of the frame of a record.
func (f *frame) sizeOf() int {
	n := frameFixed + len(f.id) + len(f.customer) + len(f.feature) + f.propertiesSize()
	return (n + 7) &^ 7
}

func (f *frame) propertiesSize() (n int) {
	for k, v := range f.properties {
		n += uvarintSize(len(k)) + len(k) + uvarintSize(len(v)) + len(v)
	}
	return n
}

func uvarintSize(n int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(n))
}

// put writes a frame at its place in a segment of zeros, all but its commit,
// which it returns.
func (f *frame) put(segment []byte) (commit uint64) {
	b := segment[f.at:][:f.sizeOf()]
	words.PutUint64(b[frameTime:], uint64(f.stamp))
	b[frameSizes], b[frameSizes+1], b[frameSizes+2] = byte(len(f.id)), byte(len(f.customer)), byte(len(f.feature))
	words.PutUint32(b[frameSizes+4:], uint32(f.propertiesSize())) // before them: see torn
	words.PutUint64(b[frameStage:], stageWord(f.stage, f.unknown, f.at))
	words.PutUint64(b[frameFirst:], stageWord(stageSent, f.first, f.at))
	half := frameCount + 16*int(f.calls&1)
	words.PutUint64(b[half:], uint64(f.quantity))
	words.PutUint64(b[half+8:], countWord(f.quantity, f.calls, f.at))
	at := frameFixed
	for _, s := range []string{f.id, f.customer, f.feature} {
		at += copy(b[at:], s)
	}
	for k, v := range f.properties {
		at += binary.PutUvarint(b[at:], uint64(len(k)))
		at += copy(b[at:], k)
		at += binary.PutUvarint(b[at:], uint64(len(v)))
		at += copy(b[at:], v)
	}
	return uint64(len(b)) | uint64(frameSum(b))<<32
}

// frameSum is the checksum of what never changes.
func frameSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[frameTime:frameStage], crc), crc, b[frameFixed:])
}

// readFrame reads the frame at a place. It reports false when there is none.
// hurt says that the frame is there and that words of it can't be trusted: then a
// count is the one before, and the record is of unknown fate since ever.
func readFrame(segment []byte, at int, prefix string) (f frame, size int, hurt, ok bool) {
	b := segment[at:]
	if len(b) < frameFixed {
		return f, 0, false, false
	}
	commit := words.Uint64(b)
	size = int(commit & math.MaxUint32)
	if size < frameFixed || size%8 != 0 || size > len(b) {
		return f, 0, false, false
	}
	b = b[:size]
	if uint32(commit>>32) != frameSum(b) {
		return f, 0, false, false
	}
	sizes := [3]int{int(b[frameSizes]), int(b[frameSizes+1]), int(b[frameSizes+2])}
	extra := int(words.Uint32(b[frameSizes+4:]))
	if at := frameFixed + sizes[0] + sizes[1] + sizes[2]; sizes[1] == 0 || sizes[2] == 0 || extra > size-at {
		return f, 0, false, false
	}
	f = frame{at: at, stamp: int64(words.Uint64(b[frameTime:]))}
	rest := b[frameFixed:]
	for i, s := range []*string{&f.id, &f.customer, &f.feature} {
		*s, rest = string(rest[:sizes[i]]), rest[sizes[i]:]
	}
	if f.id == "" {
		f.id = frameID(prefix, at)
	}
	if f.properties, ok = readProperties(rest[:extra]); !ok {
		return f, 0, false, false
	}
	var good bool
	if f.stage, f.unknown, good = readStage(words.Uint64(b[frameStage:]), at); !good {
		f.stage, f.unknown, hurt = stageSent, 0, true
	}
	if _, f.first, good = readStage(words.Uint64(b[frameFirst:]), at); !good {
		f.first, hurt = 0, true
	}
	if !f.readCount(b) {
		hurt = true
	}
	return f, size, hurt, true
}

// readCount takes the later of two counts. It reports false when the later one may
// be the one that can't be trusted. One that was being written when the process
// was killed is the earlier: the calls in it had not returned.
func (f *frame) readCount(b []byte) bool {
	var calls [2]uint32
	var good [2]bool
	for half := range 2 {
		at := frameCount + 16*half
		quantity, w := int64(words.Uint64(b[at:])), words.Uint64(b[at+8:])
		calls[half] = uint32(w)
		good[half] = w == countWord(quantity, calls[half], f.at) && calls[half] != 0
		if good[half] && calls[half] > f.calls {
			f.quantity, f.calls = quantity, calls[half]
		}
	}
	for half := range 2 {
		// Nothing there yet, and the earlier one, are fine.
		w := words.Uint64(b[frameCount+16*half+8:])
		if !good[half] && w != 0 && (calls[half] != f.calls-1 || w&callsBits != callsWord(calls[half], f.at)) {
			return false
		}
	}
	return f.calls != 0
}

func readProperties(b []byte) (map[string]string, bool) {
	if len(b) == 0 {
		return nil, true
	}
	properties := make(map[string]string)
	for len(b) > 0 {
		var pair [2]string
		for i := range pair {
			n, used := binary.Uvarint(b)
			if used <= 0 || n > uint64(len(b)-used) {
				return nil, false
			}
			pair[i], b = string(b[used:used+int(n)]), b[used+int(n):]
		}
		properties[pair[0]] = pair[1]
	}
	return properties, true
}

// frameID is the ID of a record that has none of its own: it is known when the
// frame is begun, and is the same after a restart.
func frameID(prefix string, at int) string { return prefix + strconv.FormatUint(uint64(at/8), 36) }

// putHeader begins a segment.
func putHeader(b []byte, id [segmentID]byte) {
	copy(b, segmentMagic)
	words.PutUint32(b[8:], segmentVersion)
	copy(b[16:], id[:])
	words.PutUint64(b[28:], uint64(len(b)))
	words.PutUint32(b[12:], crc32.Checksum(b[16:36], crc))
}

// readHeader is the prefix of a segment's IDs. whole says that nothing was cut
// off.
func readHeader(b []byte) (prefix string, whole bool, err error) {
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic || words.Uint32(b[8:]) != segmentVersion ||
		words.Uint32(b[12:]) != crc32.Checksum(b[16:36], crc) {
		return "", false, errForeign
	}
	return prefixOf([segmentID]byte(b[16:])), words.Uint64(b[28:]) == uint64(len(b)), nil
}

func prefixOf(id [segmentID]byte) string { return hex.EncodeToString(id[:]) + "-" }

// readSegment calls each with every frame that is intact. It returns how many
// bytes are damaged: not frames, though something was there, or came after.
func readSegment(b []byte, prefix string, each func(frame)) (damaged int) {
	gap := -1 // where what is no frame begins
	for at := segmentHeader; at < len(b); {
		f, size, hurt, ok := readFrame(b, at, prefix)
		if !ok {
			if gap < 0 {
				gap = at
			}
			at += 8
			continue
		}
		if gap >= 0 {
			damaged += at - gap
			gap = -1
		}
		if hurt {
			damaged += 16
		}
		if f.calls > 0 { // how much it was is known
			each(f)
		}
		at += size
	}
	if gap < 0 || len(b)-gap < 8 || words.Uint64(b[gap:]) == 0 && torn(b[gap:]) {
		return damaged
	}
	return damaged + len(b) - gap
}

// torn reports whether what follows the last frame is nothing, or one frame that
// was being written when the process was killed: its commit is still zero.
func torn(b []byte) bool {
	last := len(bytes.TrimRight(b, "\x00"))
	return last <= frameFixed+3*MaxKeyLength || words.Uint32(b[frameSizes+4:]) != 0
}
