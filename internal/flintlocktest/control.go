package flintlocktest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
)

// maxControlBody bounds a request to Control.
const maxControlBody = 64 << 10

// ControlVM is a microVM as [Server.Control] shows it: without its specification and its metadata, which has secrets.
type ControlVM struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	State     string `json:"state"`
	Retry     int    `json:"retry"`
	Reason    string `json:"reason,omitempty"`
	Refusal   string `json:"refusal,omitempty"`
	Boots     int    `json:"boots"`
	Running   bool   `json:"running"`
	VCPUs     int    `json:"vcpus"`
	MemoryMiB int    `json:"memory_mib"`
	Console   string `json:"console"`
}

// controlFault is a Fault whose delay is text ("1.5s") and whose code is a number or a name in capitals.
type controlFault struct {
	Fault
	Code  codes.Code `json:"code,omitempty"`
	Delay string     `json:"delay,omitempty"`
}

// Control is what tests in other processes, and people, do to a host that no client of flintlockd can do:
//
//	GET    /vms              what there is, and what the API does not tell of it
//	GET    /vms/UID/console  what the guest has printed
//	DELETE /vms/UID          remove a record by hand, as to mend a host
//	POST   /vms/UID/kill     kill the machine; flintlockd does not notice
//	GET    /counters
//	POST   /faults           {"action": "stuck_delete", "name": "vm-7", "count": 1}; the answer has its id
//	GET    /faults           with how often each has struck
//	DELETE /faults           end them all
//	POST   /resync           look at every record now
//	POST   /restart          kill flintlockd and start it again
//	POST   /stop, /start     the two halves of it
//	POST   /power-off        flintlockd and all machines end at once; /start is power on
//
// It asks nobody who they are: it is for loopback.
func (s *Server) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /vms", func(w http.ResponseWriter, _ *http.Request) {
		all := []ControlVM{}
		for _, vm := range s.VMs() {
			all = append(all, ControlVM{
				UID: vm.UID, Namespace: vm.Namespace, ID: vm.ID, State: vm.State, Retry: vm.Retry, Reason: vm.Reason,
				Refusal: vm.Refusal, Boots: vm.Boots, Running: vm.Running, VCPUs: vm.VCPUs, MemoryMiB: vm.MemoryMiB, Console: vm.Console,
			})
		}
		answerJSON(w, all)
	})
	mux.HandleFunc("GET /vms/{uid}/console", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := s.VM(r.PathValue("uid")); !ok {
			http.NotFound(w, r)
			return
		}
		text, _ := s.Console(r.PathValue("uid")) // it has none before its first boot
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text)
	})
	found := func(act func(uid string) bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !act(r.PathValue("uid")) {
				http.NotFound(w, r)
			}
		}
	}
	mux.HandleFunc("DELETE /vms/{uid}", found(s.RemoveRecord))
	mux.HandleFunc("POST /vms/{uid}/kill", found(s.Kill))
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, s.Counters()) })
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, s.Faults()) })
	mux.HandleFunc("POST /faults", s.controlFault)
	mux.HandleFunc("DELETE /faults", func(http.ResponseWriter, *http.Request) { s.ClearFaults() })
	do := func(act func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := act(); err != nil {
				http.Error(w, err.Error(), http.StatusConflict)
			}
		}
	}
	mux.HandleFunc("POST /resync", do(func() error { s.Resync(); return nil }))
	mux.HandleFunc("POST /restart", do(s.Restart))
	mux.HandleFunc("POST /start", do(s.StartDaemon))
	mux.HandleFunc("POST /stop", do(func() error { s.StopDaemon(); return nil }))
	mux.HandleFunc("POST /power-off", do(func() error { s.PowerOff(); return nil }))
	return mux
}

func (s *Server) controlFault(w http.ResponseWriter, r *http.Request) {
	var in controlFault
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&in)
	if err == nil && in.Delay != "" {
		in.Fault.Delay, err = time.ParseDuration(in.Delay)
	}
	if err == nil && decoder.More() {
		err = errors.New("one fault at a time")
	}
	in.Fault.Code = in.Code
	var id int64
	if err == nil {
		id, err = s.AddFault(in.Fault)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answerJSON(w, map[string]int64{"id": id})
}

func answerJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	_ = out.Encode(value)
}
