package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// dialled writes down who is called when.
type dialled struct {
	mu    sync.Mutex
	doors []string
	at    []time.Time
}

func (d *dialled) note(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.doors, d.at = append(d.doors, address), append(d.at, time.Now())
}

func (d *dialled) all() ([]string, []time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.doors...), append([]time.Time{}, d.at...)
}

// TestCallerOthersWithoutSession: its start is in the memory of the first alone, so the others are called only once that has
// been silent for long; then all in turn.
func TestCallerOthersWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var called dialled
		began := time.Now()
		c := Call(CallerConfig{
			ID: "vm-1", Token: deskToken, Endpoint: "first:1", Others: []Door{{Endpoint: "second:2"}, {Endpoint: "third:3"}},
			DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
				called.note(address)
				return nil, errors.New("connection refused")
			},
			Jitter: func(d time.Duration) time.Duration { return d },
		})
		time.Sleep(2 * time.Minute)
		require.NoError(t, c.Close())
		doors, at := called.all()
		turn := 0
		for i, door := range doors {
			if at[i].Sub(began) <= 15*time.Second {
				require.Equal(t, "first:1", door, "after %v", at[i].Sub(began))
				continue
			}
			if turn == 0 && door == "first:1" { // it was decided before the time was over
				continue
			}
			turn++
			require.Equal(t, []string{"first:1", "second:2", "third:3"}[turn%3], door)
		}
		require.Greater(t, turn, 6)
	})
}

// TestCallerOthersWithSession: any of them may know the session, so the next door is called at once; what was not recorded
// goes to whoever answers. A door that cannot know yet is not the last.
func TestCallerOthersWithSession(t *testing.T) {
	d := newDesk()
	first, second := open(t, d, nil), open(t, d, nil)
	waits := open(t, unsure{d}, nil)
	var called dialled
	door := func(h *house) Door {
		fingerprint, err := ParseFingerprint(Fingerprint(h.certificate))
		require.NoError(t, err)
		return Door{Endpoint: h.address, Fingerprint: fingerprint}
	}
	dismissed := make(chan firerunner.Code, 1)
	c := first.caller(t, func(c *CallerConfig) {
		c.Others = []Door{door(waits), door(second)}
		c.OthersAfter = time.Hour
		c.Dismissed = func(code firerunner.Code) { dismissed <- code }
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			called.note(address)
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	_, err := c.Start(soon(t))
	require.NoError(t, err)
	require.NoError(t, c.Flush(soon(t)))
	first.stop()
	for n := range 3 {
		c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: fmt.Sprint(n)})
	}
	require.NoError(t, c.Flush(soon(t)))
	require.Equal(t, []int64{1, 2, 3, 4}, d.numbers)
	doors, _ := called.all()
	require.Equal(t, []string{first.address, first.address, waits.address, second.address}, doors,
		"the same first, for it may be there again at once; then each once")
	require.Equal(t, 1, d.admitted)
	require.Empty(t, dismissed)
}

// TestCallerOthersErrFingerprint: a door is known by its certificate, and by no other's.
func TestCallerOthersErrFingerprint(t *testing.T) {
	d := newDesk()
	first, imposter, last := open(t, d, nil), open(t, d, nil), open(t, d, nil)
	c := first.caller(t, func(c *CallerConfig) {
		c.Others = []Door{{Endpoint: imposter.address, Fingerprint: c.Fingerprint}}
		known, err := ParseFingerprint(Fingerprint(last.certificate))
		require.NoError(t, err)
		c.Others = append(c.Others, Door{Endpoint: last.address, Fingerprint: known})
	})
	_, err := c.Start(soon(t))
	require.NoError(t, err)
	require.NoError(t, c.Flush(soon(t)))
	first.stop()
	c.Report(FromGuest{Kind: firerunner.ReportRunnerExited})
	require.NoError(t, c.Flush(soon(t)))
	require.Contains(t, imposter.log.text(), "handshake", "it was called")
	require.NotContains(t, imposter.log.text(), `"attached"`)
}

// unsure is a desk that cannot know yet.
type unsure struct{ *desk }

func (u unsure) Return(context.Context, string, firerunner.Secret) (int64, error) {
	return 0, firerunner.Errorf(firerunner.Unavailable, "nobody acts for its controller here yet")
}

func TestMetadataOthers(t *testing.T) {
	m := testMetadata()
	for i := range maxDoors - 1 {
		d := Door{Endpoint: fmt.Sprintf("10.0.0.%d:8443", i)}
		d.Fingerprint[0] = byte(i)
		m.Others = append(m.Others, d)
	}
	text, err := EncodeMetadata(m)
	require.NoError(t, err)
	got, err := DecodeMetadata(text)
	require.NoError(t, err)
	require.Equal(t, m, got)

	for old, wrong := range map[string]string{
		"10.0.0.3:8443": "10.0.0.3", "10.0.0.4:8443": "10.0.0.4:0", `"10.0.0.5:8443","fingerprint":"sha256:`: `"10.0.0.5:8443","fingerprint":"md5:`,
		`"others":[{`: `"others":[{},{`,
	} {
		changed := strings.Replace(string(text), old, wrong, 1)
		require.NotEqual(t, string(text), changed, old)
		_, err := DecodeMetadata([]byte(changed))
		require.Error(t, err, old)
		require.NotContains(t, err.Error(), m.Token.Reveal())
	}
	m.Others = append(m.Others, Door{Endpoint: "10.0.1.0:8443"})
	_, err = EncodeMetadata(m)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "one too many")
}
