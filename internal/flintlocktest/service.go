package flintlocktest

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// service is the API. An error without a status reaches the client as code Unknown, which is what flintlockd's are.
type service struct {
	v1alpha1.UnimplementedMicroVMServer
	d *daemon
}

// CreateMicroVM writes a record and returns; the loop does the rest. It does not look whether there is one with the
// same name.
func (v *service) CreateMicroVM(ctx context.Context, req *v1alpha1.CreateMicroVMRequest) (*v1alpha1.CreateMicroVMResponse, error) {
	s := v.d.srv
	asked := req.GetMicrovm()
	if asked == nil {
		return nil, status.Error(codes.InvalidArgument, "invalid request, MicroVM required")
	}
	for _, i := range asked.GetInterfaces() {
		if i.GetOverrides() != nil && i.GetOverrides().BridgeName == nil {
			v.d.die("nil dereference: overrides of interface " + i.GetDeviceId() + " have no bridge_name")
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	spec := accepted(asked)
	if err := validate(spec, hasKernel(spec)); err != nil {
		return nil, fmt.Errorf("failed to create microvm: an error occurred when attempting to validate the request: %w", err)
	}
	uid, err := newULID(s.cfg.Now(), s.cfg.Rand)
	if err != nil {
		return nil, err
	}
	if spec, err = stored(spec, uid); err != nil {
		return nil, fmt.Errorf("failed to create microvm: %w", err)
	}
	if err := os.MkdirAll(s.machineDir(uid), 0o700); err != nil {
		return nil, fmt.Errorf("failed to create microvm: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.d.ctx.Err() != nil {
		return nil, errDown
	}
	s.lastID++
	r := &record{
		seq: s.lastID, asked: proto.Clone(asked).(*types.MicroVMSpec),
		vm: &types.MicroVM{Spec: spec, Status: &types.MicroVMStatus{State: statePending}},
	}
	s.records[uid] = r
	s.counters.Creates++
	s.save(r)
	v.d.enqueue(uid, time.Time{})
	s.log.Info("microvm wanted", "uid", uid, "namespace", r.namespace(), "id", r.id())
	return &v1alpha1.CreateMicroVMResponse{Microvm: r.view()}, nil
}

// hasKernel reports whether flintlockd's validation sees a kernel: it passes over an empty one.
func hasKernel(spec *types.MicroVMSpec) bool {
	k := spec.GetKernel()
	return k != nil && (k.GetImage() != "" || k.Filename != nil || len(k.GetCmdline()) > 0 || k.GetAddNetworkConfig())
}

// find looks a uid up, as flintlockd does from its store. The caller holds mu.
func (s *Server) find(uid string) (*record, error) {
	r, found := s.records[uid]
	switch {
	case !found:
		return nil, fmt.Errorf("microvm spec %s not found", uid)
	case r.unreadable():
		return nil, errUnreadable(r)
	}
	return r, nil
}

// DeleteMicroVM marks a record and returns. Once it is gone it is an unknown uid.
func (v *service) DeleteMicroVM(_ context.Context, req *v1alpha1.DeleteMicroVMRequest) (*emptypb.Empty, error) {
	s := v.d.srv
	if req.GetUid() == "" {
		return nil, status.Error(codes.InvalidArgument, "invalid request, UID required")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(req.GetUid())
	if err != nil {
		return nil, fmt.Errorf("failed to delete microvm: %w", err)
	}
	if v.d.ctx.Err() != nil {
		return nil, errDown
	}
	r.deleting = true
	r.vm.Status.State = stateDeleting
	s.counters.Deletes++
	s.save(r)
	// The time of the next try stays as it is: a record in back-off is not deleted before that.
	v.d.enqueue(req.GetUid(), time.Time{})
	return &emptypb.Empty{}, nil
}

// GetMicroVM returns a record.
func (v *service) GetMicroVM(_ context.Context, req *v1alpha1.GetMicroVMRequest) (*v1alpha1.GetMicroVMResponse, error) {
	s := v.d.srv
	if req.GetUid() == "" {
		return nil, status.Error(codes.InvalidArgument, "invalid request, UID required")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.find(req.GetUid())
	if err != nil {
		return nil, fmt.Errorf("failed to get microvm: %w", err)
	}
	return &v1alpha1.GetMicroVMResponse{Microvm: r.view()}, nil
}

// ListMicroVMs returns records in random order. One that cannot be read spoils it for every namespace.
func (v *service) ListMicroVMs(_ context.Context, req *v1alpha1.ListMicroVMsRequest) (*v1alpha1.ListMicroVMsResponse, error) {
	found, err := v.d.srv.list(req.GetNamespace(), req.Name)
	if err != nil {
		return nil, fmt.Errorf("failed to list microvms: %w", err)
	}
	return &v1alpha1.ListMicroVMsResponse{Microvm: found}, nil
}

// ListMicroVMsStream sends what there is and ends; it is no watch, and it does not look at the name.
func (v *service) ListMicroVMsStream(req *v1alpha1.ListMicroVMsRequest, out v1alpha1.MicroVM_ListMicroVMsStreamServer) error {
	if req.GetNamespace() == "" {
		return status.Error(codes.InvalidArgument, "invalid request, Namespace required")
	}
	found, err := v.d.srv.list(req.GetNamespace(), nil)
	if err != nil {
		return fmt.Errorf("failed to list microvms: %w", err)
	}
	for _, vm := range found {
		if err := out.Send(&v1alpha1.ListMessage{Microvm: vm}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) list(namespace string, id *string) ([]*types.MicroVM, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.unreadable(); err != nil {
		return nil, err
	}
	var found []*types.MicroVM
	for _, r := range s.inOrder() {
		if (namespace == "" || r.namespace() == namespace) && (id == nil || r.id() == *id) {
			found = append(found, r.view())
		}
	}
	s.chance.Shuffle(len(found), func(a, b int) { found[a], found[b] = found[b], found[a] })
	return found, nil
}
