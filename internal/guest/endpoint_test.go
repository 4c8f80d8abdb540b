package guest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestEndpointOK(t *testing.T) {
	d := newDesk()
	now := time.Unix(1795465437, 0)
	h := open(t, d, func(c *EndpointConfig) {
		c.Now = func() time.Time { return now }
		c.Rand = strings.NewReader(strings.Repeat("r", 64))
		c.ClockEvery = 5 * time.Millisecond
	})
	clock := make(chan time.Time, 1)
	c := h.caller(t, func(c *CallerConfig) {
		c.Heartbeat = 5 * time.Millisecond
		c.Now = func() time.Time { return now.Add(75 * time.Second) }
		c.Clock = func(at time.Time) {
			select {
			case clock <- at:
			default:
			}
		}
	})
	start, err := c.Start(soon(t))
	require.NoError(t, err)
	require.Equal(t, testStart(), start.Start)
	require.Equal(t, strings.Repeat("r", 64), string(start.Entropy))
	require.True(t, now.Equal(start.At))
	require.Empty(t, start.Session, "nobody needs it")
	require.True(t, now.Equal(<-clock))
	d.until(t, "heartbeats", func() bool { return d.alive >= 3 })

	c.Report(FromGuest{Kind: firerunner.ReportStarted, BootID: "b"})
	c.Report(FromGuest{Kind: firerunner.ReportTookJob, JobID: 7})
	d.until(t, "took", func() bool { return len(d.reports) == 3 })
	d.orders <- firerunner.OrderFinish
	require.Equal(t, firerunner.OrderFinish, <-c.Orders())
	d.orders <- firerunner.OrderStop
	require.Equal(t, firerunner.OrderStop, <-c.Orders())
	c.Print([]byte(strings.Repeat("x", MaxConsole) + "the end \x1b"))
	c.Report(FromGuest{Kind: firerunner.ReportRunnerExited, ExitCode: 3})
	require.NoError(t, c.Flush(soon(t)))

	require.Equal(t, []firerunner.GuestReport{
		{Kind: firerunner.ReportHello, At: now, Message: "agent 1, kernel 6.1; its host's clock is off by 1m15s", ClockSkew: 75 * time.Second},
		{Kind: firerunner.ReportStarted, At: now, Message: "boot b"},
		{Kind: firerunner.ReportTookJob, At: now, JobID: 7},
		{Kind: firerunner.ReportRunnerExited, At: now, ExitCode: 3},
	}, d.reports)
	require.Equal(t, []int64{1, 2, 3, 4}, d.numbers)
	require.Len(t, d.console, MaxConsole)
	require.True(t, strings.HasSuffix(string(d.console), "the end \x1b"))
	require.Equal(t, 1, d.admitted)
}

func TestEndpointErrFingerprint(t *testing.T) {
	d := newDesk()
	h := open(t, d, nil)
	c := h.caller(t, func(c *CallerConfig) { c.Fingerprint[31] ^= 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Start(ctx)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.ErrorContains(t, err, "certificate is not the one")
	require.Zero(t, d.admitted, "the token was shown to a stranger")
}

// A guest that is refused for good is told so, once, and calls no more.
func TestEndpointErrRefused(t *testing.T) {
	for want, change := range map[firerunner.Code]func(*desk, *CallerConfig){
		firerunner.Unauthorized: func(_ *desk, c *CallerConfig) { c.Token = "another" },
		firerunner.Conflict:     func(d *desk, _ *CallerConfig) { d.used = true }, // the second boot of an old disk
		firerunner.NotFound:     func(d *desk, _ *CallerConfig) { d.lost = true },
	} {
		d := newDesk()
		dismissed := make(chan firerunner.Code, 2)
		h := open(t, d, nil)
		c := h.caller(t, func(c *CallerConfig) {
			change(d, c)
			c.Dismissed = func(code firerunner.Code) { dismissed <- code }
		})
		_, err := c.Start(soon(t))
		require.Equal(t, want, firerunner.CodeOf(err))
		require.Equal(t, want, <-dismissed)
		c.ended.Wait()
		require.Equal(t, 1, d.admitted)
		c.Report(FromGuest{Kind: firerunner.ReportError})
		require.Equal(t, want, firerunner.CodeOf(c.Flush(soon(t))))
	}
}

func TestEndpointErrRecord(t *testing.T) {
	d := newDesk()
	h := open(t, d, nil)
	dismissed := make(chan firerunner.Code, 1)
	c := h.caller(t, func(c *CallerConfig) { c.Dismissed = func(code firerunner.Code) { dismissed <- code } })
	_, err := c.Start(soon(t))
	require.NoError(t, err)
	require.NoError(t, c.Flush(soon(t)))
	d.mu.Lock()
	d.fails = errors.New("the disk is full")
	d.mu.Unlock()
	c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "one"})
	d.until(t, "it calls again", func() bool { return d.alive >= 3 })
	d.mu.Lock()
	d.fails = nil
	d.mu.Unlock()
	require.NoError(t, c.Flush(soon(t)))
	require.Equal(t, []int64{1, 2}, d.numbers)

	d.mu.Lock()
	d.fails = firerunner.Errorf(firerunner.NotFound, "it is gone")
	d.mu.Unlock()
	c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "two"})
	require.Equal(t, firerunner.NotFound, <-dismissed)
}

// The newest connection of a guest is the one: the older ends.
func TestEndpointReplaced(t *testing.T) {
	d := newDesk()
	d.used = true
	h := open(t, d, nil)
	attach := `{"v":1,"kind":"attach","id":"vm-1","session":"` + deskSession + `"}` + "\n"
	older := h.connect(t, Protocol)
	_, err := io.WriteString(older, attach)
	require.NoError(t, err)
	in := bufio.NewReader(older)
	answer, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, answer, `"resume"`)
	d.orders <- firerunner.OrderStop
	order, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, order, `"stop"`)
	newer := h.connect(t, Protocol)
	_, err = io.WriteString(newer, attach)
	require.NoError(t, err)
	_, err = io.ReadAll(in)
	require.NoError(t, err, "it ends, and TLS says so")
	in = bufio.NewReader(newer)
	_, err = in.ReadString('\n')
	require.NoError(t, err)
	order, err = in.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, order, `"stop"`, "an order may have been on its way: it is repeated")
}

// Those who do not get on are shown the door, and leave room for others.
func TestEndpointSlowLoris(t *testing.T) {
	d := newDesk()
	h := open(t, d, func(c *EndpointConfig) {
		c.HandshakeTimeout, c.AttachTimeout, c.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 200*time.Millisecond
	})
	ends := func(conn net.Conn, drip string) {
		t.Helper()
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
					_, _ = io.WriteString(conn, drip) // a byte now and then holds nothing
				}
			}
		}()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := io.Copy(io.Discard, conn)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		var late net.Error
		require.False(t, errors.As(err, &late) && late.Timeout(), "it was not ended")
		close(stop)
		<-done
		_ = conn.Close()
	}
	raw, err := net.Dial("tcp", h.address)
	require.NoError(t, err)
	ends(raw, "\x16")
	ends(h.connect(t, Protocol), "x")
	conn := h.connect(t, Protocol)
	_, err = io.WriteString(conn, `{"v":1,"kind":"attach","id":"vm-1","token":"`+deskToken+`"}`+"\n")
	require.NoError(t, err)
	ends(conn, "y")
	require.Equal(t, 1, d.admitted)
}

// What is no attach is not answered.
func TestEndpointErrStranger(t *testing.T) {
	d := newDesk()
	h := open(t, d, nil)
	for _, tc := range []struct{ protocol, text string }{
		{"", `{"v":1,"kind":"attach","id":"vm-1","token":"` + deskToken + `"}` + "\n"},
		{Protocol, "GET / HTTP/1.0\r\n\r\n"},
		{Protocol, helloLine + "\n"},
		{Protocol, `{"v":1,"kind":"attach","id":"vm-1","token":"` + strings.Repeat("x", maxAttachLine) + `"}` + "\n"},
		{Protocol, strings.Repeat("x", 1<<20)},
	} {
		var protocols []string
		if tc.protocol != "" {
			protocols = []string{tc.protocol}
		}
		conn := h.connect(t, protocols...)
		_, _ = io.WriteString(conn, tc.text)
		_ = conn.CloseWrite()
		got, _ := io.ReadAll(conn)
		require.Empty(t, string(got))
	}
	_, err := tls.Dial("tcp", h.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	require.Error(t, err)
	_, err = tls.Dial("tcp", h.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{Protocol}, MaxVersion: tls.VersionTLS12})
	require.Error(t, err)
	require.Zero(t, d.admitted)
}

func TestEndpointFlood(t *testing.T) {
	d := newDesk()
	h := open(t, d, func(c *EndpointConfig) {
		c.MaxReports, c.LineBurst, c.LinesPerSecond, c.MaxBadLines = 5, 20, 100, 3
	})
	conn := h.connect(t, Protocol)
	_, err := io.WriteString(conn, `{"v":1,"kind":"attach","id":"vm-1","token":"`+deskToken+`"}`+"\n")
	require.NoError(t, err)
	began := time.Now()
	var b strings.Builder
	for n := 1; n <= 40; n++ {
		fmt.Fprintf(&b, `{"v":1,"n":%d,"kind":"notice","message":"m"}`+"\n", n)
	}
	b.WriteString(`{"v":1,"n":41,"kind":"runner_exited"}` + "\n" + `{"v":1,"n":42,"kind":"runner_exited"}` + "\n")
	b.WriteString(strings.Repeat("bad\n", 4))
	go func() { _, _ = io.WriteString(conn, b.String()) }()
	got, err := io.ReadAll(conn)
	require.NoError(t, err, "after too many bad lines it ends")
	require.Contains(t, string(got), `"n":42`)
	require.Equal(t, []int64{1, 2, 3, 4, 5, 41}, d.numbers)
	require.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond, "27 lines beyond the burst, at 100 a second")
}

func TestSourcesOK(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	s := newSources(EndpointConfig{
		MaxConns: 4, MaxConnsPerSource: 2, MaxStrangers: 3, MaxSources: 2, FailuresPerMinute: 60, FailureBurst: 3,
	}.withDefaults())
	require.Empty(t, s.enter(a, now))
	require.Empty(t, s.enter(a, now))
	require.Contains(t, s.enter(a, now), "from there")
	require.Empty(t, s.enter(b, now))
	require.Contains(t, s.enter(b, now), "not attached")
	s.attached(a)
	s.attached(b)
	require.Contains(t, s.enter(netip.MustParsePrefix("192.0.2.3/32"), now), "too many addresses")
	require.Empty(t, s.enter(b, now))
	require.Contains(t, s.enter(b, now), "too many connections")
	s.leave(a, false)
	s.leave(a, true)
	require.Empty(t, s.enter(a, now))
	s.leave(a, true)
	require.Empty(t, s.enter(a, now))
	s.leave(a, true)
	require.Contains(t, s.enter(a, now), "failed")
	require.Empty(t, s.enter(a, now.Add(time.Second)), "one a second comes back")
	s.leave(a, true)
	require.Empty(t, s.enter(netip.MustParsePrefix("192.0.2.3/32"), now.Add(time.Minute)), "whoever is forgotten makes room")

	require.True(t, s.mention(now))
	require.False(t, s.mention(now.Add(time.Second)))
	require.True(t, s.mention(now.Add(time.Minute)))

	for in, want := range map[string]string{
		"192.0.2.9:80": "192.0.2.9/32", "[::ffff:192.0.2.9]:80": "192.0.2.9/32", "[2001:db8::1%eth0]:5": "2001:db8::/64",
	} {
		require.Equal(t, want, sourceOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(in))).String())
	}
	require.False(t, sourceOf(&net.UnixAddr{Name: "x"}).IsValid())
}

func TestEndpointTurnedAway(t *testing.T) {
	h := open(t, newDesk(), func(c *EndpointConfig) { c.FailureBurst, c.FailuresPerMinute = 1, 1 })
	for range 3 {
		conn, err := net.Dial("tcp", h.address)
		require.NoError(t, err)
		_ = conn.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		require.Empty(t, got)
		_ = conn.Close()
	}
	h.stop()
	require.Equal(t, 1, strings.Count(h.log.text(), "turned away"), "said once a minute")
}

// An outage of the desk is not the guest's fault: it may call as often as it takes.
func TestEndpointErrUnavailable(t *testing.T) {
	d := newDesk()
	d.down = 5
	h := open(t, d, func(c *EndpointConfig) { c.FailureBurst, c.FailuresPerMinute = 1, 1 })
	c := h.caller(t, nil)
	_, err := c.Start(soon(t))
	require.NoError(t, err)
	require.NoError(t, c.Flush(soon(t)))
	require.Equal(t, 6, d.admitted)
}

func TestKeptOrdersOK(t *testing.T) {
	k := newKeptOrders(2)
	k.keep("a", firerunner.OrderStop)
	k.keep("a", firerunner.OrderFinish)
	require.Equal(t, firerunner.OrderStop, k.get("a"))
	k.keep("b", firerunner.OrderFinish)
	k.keep("b", firerunner.OrderStop)
	require.Equal(t, firerunner.OrderStop, k.get("b"))
	k.keep("c", firerunner.OrderFinish)
	require.Empty(t, k.get("a"))
	require.Len(t, k.ids, 2)
}

func TestNewEndpointErrInvalid(t *testing.T) {
	_, err := NewEndpoint(EndpointConfig{})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	h := open(t, newDesk(), nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(h.endpoint.Serve(t.Context(), listener)))
}
