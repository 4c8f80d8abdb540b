package network

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/firerunner/firerunner"
)

// resolver has names as the Internet might: good, private, and a mix.
func resolver() names {
	return names{
		"example.com.": {"93.184.216.34", "93.184.216.35"},
		"rebind.test.": {"127.0.0.1", "10.0.0.5", "169.254.169.254"},
		"mixed.test.":  {"192.168.0.1", "93.184.216.36"},
		"own.test.":    {"198.51.45.7"},
		"gitlab.test.": {"93.184.216.37"},
		"many.test.":   strings.Split(strings.Repeat("93.184.216.34,", 40)+"93.184.216.35", ","),
	}
}

func dnsConfig(t *testing.T, public bool) Config {
	policy := route("gitlab.test", 443, listen(t, echo))
	policy.Public = public
	return Config{
		Policy: policy, Resolver: resolver(),
		HostAddresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("198.51.45.7")}, nil },
	}
}

func TestDNS(t *testing.T) {
	t.Parallel()
	const ok, missing = dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError
	cases := []struct {
		name   string
		kind   dnsmessage.Type
		public bool
		code   dnsmessage.RCode
		addrs  []string
	}{
		{"gitlab.test", dnsmessage.TypeA, false, ok, []string{"10.42.0.8"}},
		{"gitlab.test", dnsmessage.TypeA, true, ok, []string{"10.42.0.8"}},
		{"gitlab.test", dnsmessage.TypeAAAA, false, ok, nil},
		{"gitlab.test", dnsmessage.TypeTXT, false, ok, nil},
		{"sub.gitlab.test", dnsmessage.TypeA, false, missing, nil},
		{"example.com", dnsmessage.TypeA, false, missing, nil},
		{"example.com", dnsmessage.TypeAAAA, false, missing, nil},
		{"example.com", dnsmessage.TypeTXT, false, missing, nil},
		{"example.com", dnsmessage.TypeA, true, ok, []string{"93.184.216.34", "93.184.216.35"}},
		{"EXAMPLE.com", dnsmessage.TypeA, true, ok, []string{"93.184.216.34", "93.184.216.35"}},
		{"example.com", dnsmessage.TypeAAAA, true, ok, nil},
		{"example.com", dnsmessage.TypeTXT, true, ok, nil},
		{"example.com", 65, true, ok, nil},
		{"nothing.test", dnsmessage.TypeA, true, missing, nil},
		{"rebind.test", dnsmessage.TypeA, true, missing, nil},
		{"own.test", dnsmessage.TypeA, true, missing, nil},
		{"mixed.test", dnsmessage.TypeA, true, ok, []string{"93.184.216.36"}},
		{"1.0.42.10.in-addr.arpa", dnsmessage.TypePTR, true, missing, nil},
		{"we ird!.test", dnsmessage.TypeA, true, missing, nil},
	}
	guests := map[bool]*testGuest{}
	for _, public := range []bool{false, true} {
		guests[public] = newGuest(t, newNetwork(t, dnsConfig(t, public)))
	}
	for _, c := range cases {
		code, got := guests[c.public].ask(c.name, c.kind)
		require.Equal(t, c.code, code, "%+v", c)
		var addrs []string
		for _, a := range got {
			addrs = append(addrs, a.String())
		}
		require.Equal(t, c.addrs, addrs, "%+v", c)
	}
	_, many := guests[true].ask("many.test", dnsmessage.TypeA)
	require.Len(t, many, maxAnswers)
}

func TestDNSOverTCP(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, dnsConfig(t, true))
	conn := newGuest(t, n).mustDial("10.42.0.1:53")
	for _, name := range []string{"gitlab.test", "example.com", "rebind.test"} {
		q := query(t, name, dnsmessage.TypeA)
		_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
		require.NoError(t, err)
		head := make([]byte, 2)
		_, err = io.ReadFull(conn, head)
		require.NoError(t, err)
		reply := make([]byte, binary.BigEndian.Uint16(head))
		_, err = io.ReadFull(conn, reply)
		require.NoError(t, err)
		code, _ := parseAnswer(t, reply)
		require.Equal(t, name == "rebind.test", code == dnsmessage.RCodeNameError)
	}
	// A length that no question needs ends the connection.
	_, err := conn.Write([]byte{0xff, 0xff})
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestDNSOddQueries(t *testing.T) {
	t.Parallel()
	d := newNetwork(t, dnsConfig(t, false)).dns
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("gitlab.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	ask := func(change func(*dnsmessage.Message)) []byte {
		msg := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{question}}
		change(&msg)
		packed, err := msg.Pack()
		require.NoError(t, err)
		return d.answer(context.Background(), packed)
	}
	for code, change := range map[dnsmessage.RCode]func(*dnsmessage.Message){
		dnsmessage.RCodeNotImplemented: func(m *dnsmessage.Message) { m.OpCode = 5 },
		dnsmessage.RCodeFormatError:    func(m *dnsmessage.Message) { m.Questions = append(m.Questions, question) },
		dnsmessage.RCodeRefused:        func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS },
	} {
		got, addrs := parseAnswer(t, ask(change))
		require.Equal(t, code, got)
		require.Empty(t, addrs)
	}
	none, _ := parseAnswer(t, ask(func(m *dnsmessage.Message) { m.Questions = nil }))
	require.Equal(t, dnsmessage.RCodeFormatError, none)
	require.Nil(t, ask(func(m *dnsmessage.Message) { m.Response = true }), "an answer is not answered")
	require.Nil(t, d.answer(context.Background(), make([]byte, maxQuery+1)))
	require.Nil(t, d.answer(context.Background(), nil))
}

// stuck is a resolver that waits until it is cancelled.
type stuck struct{ asked chan struct{} }

func (s stuck) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// Beyond the limit a question gets an answer at once, and Close does not wait for a resolver.
func TestDNSLimit(t *testing.T) {
	t.Parallel()
	slow := stuck{make(chan struct{}, 8)}
	n := newNetwork(t, Config{Policy: firerunner.NetworkPolicy{Public: true}, Resolver: slow, MaxDNSQueries: 1})
	g := newGuest(t, n)
	_, err := g.udp("10.42.0.1:53").Write(query(t, "slow.test", dnsmessage.TypeA))
	require.NoError(t, err)
	<-slow.asked
	code, _ := g.ask("other.test", dnsmessage.TypeA)
	require.Equal(t, dnsmessage.RCodeServerFailure, code)
	require.NoError(t, n.Close())
}
