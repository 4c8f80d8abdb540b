package intake

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

const (
	// freeBytes of a body may be held without asking. Nearly every Job Hook is smaller.
	freeBytes = 64 << 10
	// mostBodyBytes is how much is read only to verify its signature: GitLab's own limit is 25 MB.
	mostBodyBytes = 26 << 20
)

// reading is one body on its way in. Strangers can open many connections and stall, so memory is bounded without a
// queue that they could fill: beyond freeBytes a body needs one of Config.LargeBodies places, and one that gets none
// is still verified, and then left to the sweep.
type reading struct {
	in     *Intake
	placed bool
}

// body reads up to the body limit. whole = false says that there is more.
func (rd *reading) body(from io.Reader) (body []byte, whole bool, err error) {
	var held bytes.Buffer
	limit := min(freeBytes, rd.in.cfg.BodyLimit)
	for {
		// One byte more than fits tells the end of the body from the end of our patience.
		if _, err := io.Copy(&held, io.LimitReader(from, limit+1-int64(held.Len()))); err != nil {
			return nil, false, fmt.Errorf("reading the body: %w", err)
		}
		switch {
		case int64(held.Len()) <= limit:
			return held.Bytes(), true, nil
		case limit == rd.in.cfg.BodyLimit || !rd.place():
			return nil, false, nil
		}
		limit = rd.in.cfg.BodyLimit
	}
}

func (rd *reading) place() bool {
	select {
	case rd.in.large <- struct{}{}:
		rd.placed = true
	default:
	}
	return rd.placed
}

// done gives the place back, once the body is no longer needed.
func (rd *reading) done() {
	if rd.placed {
		<-rd.in.large
	}
}

// authentic returns the body if it comes from GitLab; errNotAuthentic otherwise. What a stranger sends is read no
// further than is needed to know him as one. A body that is too large to be held is errTooLarge, and only if it is
// authentic.
func (rd *reading) authentic(r *http.Request) ([]byte, error) {
	in := rd.in
	if len(in.signing) > 0 {
		return rd.signedBody(r)
	}
	if len(in.tokens) > 0 && !in.tokenFits(r.Header.Get("X-Gitlab-Token")) {
		return nil, fmt.Errorf("%w: X-Gitlab-Token is missing or wrong", errNotAuthentic)
	}
	body, whole, err := rd.body(r.Body)
	if err == nil && !whole {
		err = errTooLarge
	}
	return body, err
}
