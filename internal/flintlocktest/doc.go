// Package flintlocktest is a host to test against: a flintlockd that behaves as the real one does, its mistakes
// included, and whose microVMs are real if it is given [QEMU] to start them with. Tests run it in their own process;
// test/flintlocktest is a program around it.
//
//	srv, err := flintlocktest.Start(flintlocktest.Config{
//		Dir:        t.TempDir(),
//		RetryDelay: 20 * time.Millisecond, // flintlockd: 20 s
//		VMM: flintlocktest.Scripted{Guest: func(ctx context.Context, g *flintlocktest.Guest) {
//			fmt.Fprintln(g.Console, "my token is", g.Metadata["token"])
//		}},
//	})
//	defer srv.Close()
//	conn, err := grpc.NewClient(srv.Addr(), ...)
//	...
//	vm, err := srv.WaitVM(ctx, uid, func(vm flintlocktest.VM) bool { return vm.State == "CREATED" })
//
// What it holds to: every error is Unknown with a text, but for requests with nothing in them; the same namespace and
// id twice are two microVMs; one loop per host does everything, one thing at a time; CREATED says that a process was
// started and nothing else; a machine that has ended is started again at the next resync, on its old disk; labels are
// forgotten; and four requests break the whole host until somebody has mended it (see [Server.RemoveRecord]).
//
// Faults happen on demand:
//
//	srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultErrorAfter, Method: "CreateMicroVM", Count: 1})
//	srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullError, Image: "registry.example.com/"})
//	srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultStuckDelete, Name: "vm-7", Count: 1})
//	srv.Restart()  // the daemon is killed and started again; its machines go on
//	srv.PowerOff() // the daemon and every machine end at once; StartDaemon is power on
//
// What it does not emulate: the HTTP gateway, the cloudhypervisor provider, virtiofs, vsock to a guest agent, and the
// bridge that connects the machines of one host.
package flintlocktest
