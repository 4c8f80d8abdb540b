package flintlocktest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// Short names of what the API calls a microVM's state.
const (
	statePending  = types.MicroVMStatus_PENDING
	stateCreated  = types.MicroVMStatus_CREATED
	stateFailed   = types.MicroVMStatus_FAILED
	stateDeleting = types.MicroVMStatus_DELETING
)

// record is what flintlockd keeps of one microVM. It outlives the daemon.
type record struct {
	seq       int64 // order of creation
	vm        *types.MicroVM
	asked     *types.MicroVMSpec // as it came in, labels and all
	deleting  bool
	notBefore time.Time // of the next try
	kernel    string    // pulled: its path here
	initrd    string
	disks     []Disk
	pulled    bool
	boots     int
	reason    string // of the last failure
	refusal   string // why the VMM ended at once
}

func (r *record) uid() string                             { return r.vm.GetSpec().GetUid() }
func (r *record) id() string                              { return r.vm.GetSpec().GetId() }
func (r *record) namespace() string                       { return r.vm.GetSpec().GetNamespace() }
func (r *record) spec() *types.MicroVMSpec                { return r.vm.GetSpec() }
func (r *record) view() *types.MicroVM                    { return proto.Clone(r.vm).(*types.MicroVM) }
func (r *record) state() types.MicroVMStatus_MicroVMState { return r.vm.GetStatus().GetState() }

// unreadable reports whether flintlockd can write this record but never read it again: its own text form of the
// record's name, NAMESPACE/ID/UID, does not come apart again.
func (r *record) unreadable() bool {
	return strings.Contains(r.id(), "/") || strings.Contains(r.namespace(), "/")
}

// save is a change of a record. The caller holds mu.
func (s *Server) save(r *record) {
	r.vm.Version++
	s.touch()
}

// unreadable is the error of everything that reads all records. The caller holds mu.
func (s *Server) unreadable() error {
	for _, r := range s.records {
		if r.unreadable() {
			return errUnreadable(r)
		}
	}
	return nil
}

func errUnreadable(r *record) error {
	return fmt.Errorf("getting vmid from content store: parsing vmid %s/%s/%s: incorrect format", r.namespace(), r.id(), r.uid())
}

// inOrder is all records, the oldest first. The caller holds mu.
func (s *Server) inOrder() []*record {
	all := make([]*record, 0, len(s.records))
	for _, r := range s.records {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *record) int { return int(a.seq - b.seq) })
	return all
}

// RemoveRecord takes a record out of flintlockd's store by hand, as an operator does who mends a host: "ctr content
// rm". The daemon is not told; a machine that runs goes on. It reports whether there was one.
func (s *Server) RemoveRecord(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found := s.records[uid]
	delete(s.records, uid)
	s.touch()
	return found
}

// ulidAlphabet is Crockford's base 32. Source: https://github.com/ulid/spec
const ulidAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newULID makes an id of 26 characters: 48 bits of time in milliseconds, 80 random bits.
func newULID(now time.Time, random io.Reader) (string, error) {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for n := range 6 {
		b[n] = byte(ms >> (40 - 8*n))
	}
	if _, err := io.ReadFull(random, b[6:]); err != nil {
		return "", fmt.Errorf("making a uid: %w", err)
	}
	out := make([]byte, 26)
	for n := range out {
		// 26 characters of 5 bits are 130: the first two bits are zero.
		value := 0
		for bit := n*5 - 2; bit < n*5+3; bit++ {
			value <<= 1
			if bit >= 0 {
				value |= int(b[bit/8]>>(7-bit%8)) & 1
			}
		}
		out[n] = ulidAlphabet[value]
	}
	return string(out), nil
}

// decoded is what flintlockd makes of a value of spec.metadata: base64 if it is any, and the text itself if not. So a
// plain text that happens to be base64 comes out mangled.
func decoded(value string) string {
	if plain, err := base64.StdEncoding.DecodeString(value); err == nil {
		return string(plain)
	}
	return value
}

var errNoRootVolume = errors.New("building the VMM's configuration: the root volume has no status")
