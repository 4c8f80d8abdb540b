package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	maxQuery   = 1232 // bytes; a question needs less than 300
	maxAnswers = 8    // addresses per answer: a reply always fits into 512 bytes
	answerTTL  = 30   // seconds
)

// dnsServer answers the guest's questions. A route's name has an address that exists only here. Other names
// exist only where the policy is public, only as A records, and only with addresses that the guest may reach: a
// public name that points into a private network has no address at all.
//
// All other names do not exist. That is said as NXDOMAIN, because resolvers then stop asking and the job
// fails at once; REFUSED makes them try again.
type dnsServer struct {
	policy   *policy
	resolver Resolver
	timeout  time.Duration
	slots    chan struct{} // lookups at a time
	count    *counters
}

func newDNSServer(n *Network) *dnsServer {
	return &dnsServer{
		policy: n.policy, resolver: n.cfg.Resolver, timeout: n.cfg.DNSTimeout,
		slots: make(chan struct{}, n.cfg.MaxDNSQueries), count: &n.count,
	}
}

// question is a query that can be answered.
type question struct {
	header dnsmessage.Header
	asked  dnsmessage.Question
	name   string // lower case, without the last dot
}

// parse reads a query. Without ok there is either a reply that says why not, or nothing to say at all.
func (d *dnsServer) parse(query []byte) (q question, reply []byte, ok bool) {
	if len(query) > maxQuery {
		return q, nil, false
	}
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil || header.Response {
		return q, nil, false
	}
	d.count.dns.Add(1)
	q.header = header
	if header.OpCode != 0 {
		return q, q.reply(dnsmessage.RCodeNotImplemented, nil), false
	}
	if q.asked, err = p.Question(); err != nil {
		return q, q.reply(dnsmessage.RCodeFormatError, nil), false
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return q, q.reply(dnsmessage.RCodeFormatError, nil), false
	}
	if q.asked.Class != dnsmessage.ClassINET {
		return q, q.reply(dnsmessage.RCodeRefused, nil), false
	}
	q.name = strings.ToLower(strings.TrimSuffix(q.asked.Name.String(), "."))
	return q, nil, true
}

// local answers what needs no lookup; ok is false for the rest.
func (d *dnsServer) local(q question) (reply []byte, ok bool) {
	addr, known := d.policy.names[q.name]
	switch {
	case known && q.asked.Type == dnsmessage.TypeA:
		return q.reply(dnsmessage.RCodeSuccess, []netip.Addr{addr}), true
	case known:
		return q.reply(dnsmessage.RCodeSuccess, nil), true
	case !d.policy.public || !validName(q.name) || strings.HasSuffix(q.name, ".arpa"):
		d.count.dnsRefused.Add(1)
		return q.reply(dnsmessage.RCodeNameError, nil), true
	case q.asked.Type != dnsmessage.TypeA:
		return q.reply(dnsmessage.RCodeSuccess, nil), true // AAAA above all: there is no IPv6
	}
	return nil, false
}

// lookup asks the host's resolver.
func (d *dnsServer) lookup(ctx context.Context, q question) []byte {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	// The last dot keeps the host's search domains out.
	found, err := d.resolver.LookupNetIP(ctx, "ip4", q.name+".")
	var missing *net.DNSError
	switch {
	case errors.As(err, &missing) && missing.IsNotFound:
		return q.reply(dnsmessage.RCodeNameError, nil)
	case err != nil:
		return q.reply(dnsmessage.RCodeServerFailure, nil)
	}
	var allowed []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); a.Is4() && d.policy.refusal(a) == "" && len(allowed) < maxAnswers {
			allowed = append(allowed, a)
		}
	}
	if len(allowed) == 0 {
		d.count.dnsRefused.Add(1)
		return q.reply(dnsmessage.RCodeNameError, nil)
	}
	return q.reply(dnsmessage.RCodeSuccess, allowed)
}

// reply builds a message: the question as it was asked, and the addresses.
func (q question) reply(code dnsmessage.RCode, addrs []netip.Addr) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RCode: code,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true,
	})
	err := b.StartQuestions()
	if q.asked.Name.Length > 0 {
		err = errors.Join(err, b.Question(q.asked))
	}
	err = errors.Join(err, b.StartAnswers())
	for _, a := range addrs {
		err = errors.Join(err, b.AResource(
			dnsmessage.ResourceHeader{Name: q.asked.Name, Class: dnsmessage.ClassINET, TTL: answerTTL},
			dnsmessage.AResource{A: a.As4()}))
	}
	msg, finish := b.Finish()
	if errors.Join(err, finish) != nil {
		return nil // a name that can be read but not written: no answer
	}
	return msg
}
