// Package gitlabtest is a GitLab to test against: a real HTTP server with the REST API, the runner
// protocol, webhooks, pipelines and git that FireRunner and gitlab-runner use, and with faults on
// demand. Tests run it in their own process, and `firerunner demo` runs it for a user to look at.
//
// It is held to the truth by its conformance test, in which an unpatched gitlab-runner takes, runs
// and reports jobs. What it does not emulate: two-phase job commit (a job runs from the 201 on),
// groups beyond a project's path, job caches, environments, and all of a .gitlab-ci.yml that
// [ParseCIFile] refuses by name and line.
//
//	srv, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
//	defer srv.Close()
//	token := srv.CreateToken("api") // for the REST API below srv.URL()
//	project, err := srv.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
//	hook, err := srv.AddHook(project.ID, gitlabtest.Hook{URL: receiver.URL, Token: "s3cret"})
//	pipeline, err := srv.Push(project.ID, map[string]string{".gitlab-ci.yml": `
//	build:
//	  tags: [firecracker-2cpu-4gb]
//	  script: [make]
//	`})
//	job, err := srv.WaitJob(ctx, pipeline.JobIDs[0], gitlabtest.StatusRunning)
//	done, err := srv.WaitPipeline(ctx, pipeline.ID)
//	fmt.Println(done.Status, srv.Trace(job.ID))
//
// Faults break requests or deliveries, from here or, for a test in another process, over
// POST /-/emulator/faults with the same fields as JSON:
//
//	srv.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultResetAfter, Method: "POST", Path: "/api/v4/user/runners", Count: 1})
//	srv.AddFault(gitlabtest.Fault{Hook: true, Action: gitlabtest.FaultDrop, BuildStatus: gitlabtest.StatusPending, Percent: 30})
//
// No waiting here polls: every Wait method wakes with each change of the server's state.
package gitlabtest
