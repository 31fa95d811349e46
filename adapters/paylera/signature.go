package paylera

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	// signatureTolerance bounds how far a signature's time may be from ours, in
	// either direction: a signature from the future would stay good for longer.
	signatureTolerance = 300 * time.Second

	// maxSignatureHeader bounds the work that an unsigned request can cause.
	maxSignatureHeader = 4096
)

// signature is a parsed Paylera-Signature header.
type signature struct {
	stamp string // t as it was written, which is what was signed
	at    int64  // t in unix seconds
	v1    [][]byte
}

var (
	errSignatureMissing   = errors.New("signature missing")
	errSignatureMalformed = errors.New("signature malformed")
	errSignatureWrong     = errors.New("signature wrong")
	errSignatureTime      = errors.New("signature time out of tolerance")
)

// parseSignature reads "t=<unix>,v1=<hex>[,v1=<hex>]", with spaces anywhere
// around the parts. Schemes other than v1, and a v1 that is no SHA-256, are
// passed over: a new scheme must not break receivers. Two times are refused,
// since only one of them can be the one that was signed.
//
// Source: docs.paylera.com, /guides/webhooks.
func parseSignature(header string) (signature, error) {
	var s signature
	if strings.TrimSpace(header) == "" {
		return s, errSignatureMissing
	}
	if len(header) > maxSignatureHeader {
		return s, errSignatureMalformed
	}
	// No early end on a bad v1: a good one may follow, and which of them is looked
	// at must not depend on the order.
	for part := range strings.SplitSeq(header, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return signature{}, errSignatureMalformed
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "t":
			// Digits only, and few enough that no arithmetic on them overflows.
			if s.stamp != "" || value == "" || len(value) > 12 || strings.Trim(value, "0123456789") != "" {
				return signature{}, errSignatureMalformed
			}
			s.stamp = value
			s.at, _ = strconv.ParseInt(value, 10, 64)
		case "v1":
			if mac, err := hex.DecodeString(value); err == nil && len(mac) == sha256.Size {
				s.v1 = append(s.v1, mac)
			}
		}
	}
	if s.stamp == "" || len(s.v1) == 0 {
		return signature{}, errSignatureMalformed
	}
	return s, nil
}

// verify checks the signature over the raw body. Any v1 made with any of the
// secrets will do: both ends rotate by using two for a while. Every pair is
// compared, in constant time, so that the time taken tells nothing.
func (s signature) verify(secrets []string, body []byte, now time.Time) error {
	// The time is judged after the signature: it is only known to be Paylera's then.
	matches := false
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		// As it was written, and the body as it came: whatever is parsed and printed
		// again may differ in a byte.
		mac.Write([]byte(s.stamp))
		mac.Write([]byte{'.'})
		mac.Write(body)
		want := mac.Sum(nil)
		for _, got := range s.v1 {
			if hmac.Equal(got, want) {
				matches = true
			}
		}
	}
	if !matches {
		return errSignatureWrong
	}
	if apart := now.Sub(time.Unix(s.at, 0)).Abs(); apart > signatureTolerance {
		return errSignatureTime
	}
	return nil
}
