package entitlements

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"unsafe"
)

// Customers and feature codes are hashed with secrets of the process, so that
// keys cannot be chosen to collide. What is short, as nearly all of them are, is
// multiplied and folded here; the rest is maphash's, whose two calls were the
// largest part of a check's instructions, most of them on the way to the runtime's
// hash and back.
var (
	seed    = maphash.MakeSeed()
	secrets = [4]uint64{
		maphash.String(seed, "first"), maphash.String(seed, "second"),
		maphash.String(seed, "third"), maphash.String(seed, "fourth"),
	}
)

func hashOf(s string) uint64 {
	if n := len(s); uint(n-8) <= 8 {
		head, tail := ends(s)
		return scatter(head, tail, uint64(n))
	}
	return hashOther(s)
}

// ends are the first and the last eight bytes of a string that has as many.
func ends(s string) (head, tail uint64) {
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[len(b)-8:])
}

// endsOf is ends for a string of any length; of a shorter one it is all of it.
func endsOf(s string) (head, tail uint64) {
	if len(s) >= 8 {
		return ends(s)
	}
	return short(s), 0
}

// short is all of a string of up to eight bytes.
func short(s string) (w uint64) {
	for i := range len(s) {
		w |= uint64(s[i]) << (8 * i)
	}
	return w
}

// hashOther is for the lengths that hashOf does not do itself.
func hashOther(s string) uint64 {
	n := len(s)
	b := unsafe.Slice(unsafe.StringData(s), n)
	var head, tail uint64
	switch {
	case n > 32:
		return maphash.String(seed, s)
	case n > 16:
		head = fold(binary.LittleEndian.Uint64(b)^secrets[2], binary.LittleEndian.Uint64(b[8:])^secrets[3])
		head ^= binary.LittleEndian.Uint64(b[n-16:])
		tail = binary.LittleEndian.Uint64(b[n-8:])
	case n >= 4:
		head, tail = uint64(binary.LittleEndian.Uint32(b)), uint64(binary.LittleEndian.Uint32(b[n-4:]))
	case n > 0:
		head = uint64(b[0])<<16 | uint64(b[n/2])<<8 | uint64(b[n-1])
	}
	return scatter(head, tail, uint64(n))
}

// scatter is the hash of two words and a length. Both halves of the first product go
// on, so that neither a poor secret nor a word of zeroes is multiplied by a
// constant twice.
func scatter(head, tail, n uint64) uint64 {
	hi, lo := bits.Mul64(head^secrets[0], tail^secrets[1])
	return fold(hi^secrets[2]^n, lo^secrets[3])
}

// fold mixes two words: both halves of their product.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
