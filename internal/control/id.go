package control

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// newID returns 16 letters and digits: 5 bytes of time (milliseconds, good for 34 years before it wraps) and 5 random
// bytes, so that IDs sort by age and cannot be guessed. They are safe as file, host and cgroup names.
func newID(now time.Time) string {
	var b [10]byte
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(b[:5], ms[3:])
	if _, err := rand.Read(b[5:]); err != nil {
		panic("reading random bytes: " + err.Error()) // crypto/rand never fails on a supported system
	}
	return strings.ToLower(idEncoding().EncodeToString(b[:]))
}

// idEncoding is base 32 in an alphabet whose order is the bytes' order.
func idEncoding() *base32.Encoding {
	return base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)
}

// bornAt is when newID made an ID; the zero time for what newID cannot have made before now. The 34 years of its clock
// are those before now.
func bornAt(id string, now time.Time) time.Time {
	b, err := idEncoding().DecodeString(id)
	if err != nil || len(id) != 16 {
		return time.Time{}
	}
	var ms [8]byte
	copy(ms[3:], b[:5])
	const wraps = 1 << 40
	ago := (now.UnixMilli()%wraps - int64(binary.BigEndian.Uint64(ms[:])) + wraps) % wraps
	if ago > wraps/2 { // a clock that is a little behind
		return now
	}
	return now.Add(-time.Duration(ago) * time.Millisecond)
}

// marker begins the description of every runner that this installation makes in GitLab.
func (c *Control) marker() string { return fmt.Sprintf("firerunner %s ", c.Installation) }

// description is unique in GitLab: it is how a runner is found again after a crash.
func (c *Control) description(runnerID string) string { return c.marker() + runnerID }
