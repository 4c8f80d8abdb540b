package intake

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

const (
	signingPrefix = "whsec_"
	leastKeyBytes = 16
	mostIDBytes   = 256 // of webhook-id
	mostSigned    = 16  // signatures that are looked at
)

var (
	errNotAuthentic = errors.New("not authentic")
	errTooLarge     = errors.New("larger than the body limit")
)

// signingKey decodes a signing token: whsec_ and base64 (https://www.standardwebhooks.com, "signature scheme").
func signingKey(token firerunner.Secret) ([]byte, error) {
	text, ok := strings.CutPrefix(token.Reveal(), signingPrefix)
	if !ok {
		return nil, fmt.Errorf("it does not begin with %s", signingPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	if len(key) < leastKeyBytes {
		return nil, fmt.Errorf("it has fewer than %d bytes", leastKeyBytes)
	}
	return key, nil
}

func hashed(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// tokenFits compares a plain token with each of ours, in a time that does not tell which fits, or how well.
func (in *Intake) tokenFits(sent string) bool {
	sum, fits := hashed(sent), 0
	for _, token := range in.tokens {
		fits |= subtle.ConstantTimeCompare(sum[:], token[:])
	}
	return fits == 1
}

// signedBody verifies a delivery by Standard Webhooks, as GitLab 19.0 and later sign them
// (https://docs.gitlab.com/user/project/integrations/webhooks/#signing-tokens): HMAC-SHA256 over
// webhook-id.webhook-timestamp.body. The header may hold several signatures, apart by spaces.
func (rd *reading) signedBody(r *http.Request) ([]byte, error) {
	in := rd.in
	id, timestamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	signatures, err := signaturesOf(r.Header.Values("webhook-signature"))
	switch {
	case err != nil:
		return nil, err
	case id == "" || len(id) > mostIDBytes:
		return nil, fmt.Errorf("%w: webhook-id is missing or too long", errNotAuthentic)
	case r.ContentLength > mostBodyBytes:
		return nil, fmt.Errorf("%w: larger than anything that GitLab sends", errNotAuthentic)
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<40 {
		return nil, fmt.Errorf("%w: webhook-timestamp is missing or not a time", errNotAuthentic)
	}
	if age := in.cfg.Now().Sub(time.Unix(seconds, 0)); age.Abs() > in.cfg.TimestampTolerance {
		return nil, fmt.Errorf("%w: webhook-timestamp is %s off; is the clock right on both sides?", errNotAuthentic, age.Round(time.Second))
	}

	macs := make([]hash.Hash, len(in.signing))
	all := make([]io.Writer, len(in.signing))
	for i, key := range in.signing {
		macs[i] = hmac.New(sha256.New, key)
		fmt.Fprintf(macs[i], "%s.%s.", id, timestamp)
		all[i] = macs[i]
	}
	signed := io.TeeReader(io.LimitReader(r.Body, mostBodyBytes), io.MultiWriter(all...))
	body, whole, err := rd.body(signed)
	if err == nil && !whole { // verified on its way past, and not kept
		_, err = io.Copy(io.Discard, signed)
	}
	if err != nil {
		return nil, err
	}
	match := false
	for _, mac := range macs {
		sum := mac.Sum(nil)
		for _, signature := range signatures {
			match = hmac.Equal(sum, signature) || match
		}
	}
	switch {
	case !match:
		return nil, fmt.Errorf("%w: no signature fits", errNotAuthentic)
	case !whole:
		return nil, errTooLarge
	}
	return body, nil
}

// signaturesOf returns the v1 signatures in the header's values; signatures of other versions are passed over.
func signaturesOf(values []string) ([][]byte, error) {
	var found [][]byte
	for _, word := range strings.Fields(strings.Join(values, " ")) {
		text, ok := strings.CutPrefix(word, "v1,")
		if !ok {
			continue
		}
		signature, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(signature) != sha256.Size {
			continue
		}
		if found = append(found, signature); len(found) == mostSigned {
			break
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: webhook-signature is missing", errNotAuthentic)
	}
	return found, nil
}
