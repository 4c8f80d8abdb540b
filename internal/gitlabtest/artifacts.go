package gitlabtest

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Artifact is one uploaded file.
type Artifact struct {
	Type     string `json:"file_type"` // archive, metadata, junit, ...
	Format   string `json:"file_format"`
	Filename string `json:"filename"`
	Size     int64  `json:"size"`
	ExpireIn string `json:"expire_in,omitempty"`
	Path     string `json:"-"` // where the emulator keeps it
}

// uploadArtifact is POST /jobs/:id/artifacts: one multipart part named file. 201, 400, 403, 413.
func (s *Server) uploadArtifact(w http.ResponseWriter, r *http.Request) error {
	token := credential(r, params{"token": r.URL.Query().Get("token")}, "JOB-TOKEN")
	if err := s.mayUpload(w, r, token); err != nil {
		return err
	}
	kind, args, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return apiParam("file is missing")
	}
	a := Artifact{Type: "archive", Format: "zip"}
	q := r.URL.Query()
	if v := q.Get("artifact_type"); v != "" {
		a.Type = v
	}
	if v := q.Get("artifact_format"); v != "" {
		a.Format = v
	}
	a.ExpireIn = q.Get("expire_in")

	if err := s.receive(multipart.NewReader(r.Body, args["boundary"]), &a); err != nil {
		return err
	}
	// The job may have ended while the file came in.
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.jobByID(w, r, token)
	if err == nil && slices.ContainsFunc(j.Artifacts, func(b Artifact) bool { return a.Type == b.Type }) {
		err = apiMessage(http.StatusBadRequest, "400 Bad request - another artifact of the same type already exists")
	}
	if err != nil {
		s.reject(r)
		return errors.Join(err, os.Remove(a.Path))
	}
	j.Artifacts = append(j.Artifacts, a)
	s.log.Info("artifact received", "job", j.ID, "type", a.Type, "bytes", a.Size)
	s.touch()
	writeJSON(w, http.StatusCreated, http.StatusCreated)
	return nil
}

func (s *Server) mayUpload(w http.ResponseWriter, r *http.Request, token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.jobByID(w, r, token)
	if err != nil {
		s.reject(r)
	}
	return err
}

// receive stores the part named file.
func (s *Server) receive(parts *multipart.Reader, a *Artifact) error {
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return apiParam("file is missing")
		}
		if err != nil {
			return apiParam("reading the upload: %v", err)
		}
		if part.FormName() != "file" {
			continue
		}
		a.Filename = filepath.Base(part.FileName())
		f, err := os.CreateTemp(filepath.Join(s.cfg.Dir, "artifacts"), "artifact-*")
		if err != nil {
			return fmt.Errorf("storing an artifact: %w", err)
		}
		a.Path = f.Name()
		a.Size, err = io.Copy(f, io.LimitReader(part, s.cfg.MaxArtifactBytes+1))
		err = errors.Join(err, f.Close())
		if err == nil && a.Size > s.cfg.MaxArtifactBytes {
			err = apiMessage(http.StatusRequestEntityTooLarge, "413 Request Entity Too Large")
		}
		if err != nil {
			return errors.Join(err, os.Remove(f.Name()))
		}
		return nil
	}
}

// downloadArtifact is GET /jobs/:id/artifacts with the token of a running job: the job itself, or
// one of the same project that depends on it. 401 without a token, 403, 404.
func (s *Server) downloadArtifact(w http.ResponseWriter, r *http.Request) error {
	token := credential(r, params{"token": r.URL.Query().Get("token")}, "JOB-TOKEN")
	if token == "" {
		return apiMessage(http.StatusUnauthorized, "401 Unauthorized")
	}
	a, err := s.findArtifact(r, token)
	if err != nil {
		return err
	}
	f, err := os.Open(a.Path)
	if err != nil {
		return fmt.Errorf("opening an artifact: %w", err)
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", a.Filename))
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

func (s *Server) findArtifact(r *http.Request, token string) (Artifact, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := strconv.ParseInt(r.PathValue("job"), 10, 64)
	if err != nil {
		return Artifact{}, apiParam("id is invalid")
	}
	j, asking := s.state.jobs[id], s.jobByToken(token)
	if j == nil || asking == nil || asking.project != j.project {
		s.reject(r)
		return Artifact{}, apiMessage(http.StatusForbidden, "403 Forbidden")
	}
	for _, a := range j.Artifacts {
		if a.Type == "archive" {
			return a, nil
		}
	}
	return Artifact{}, apiMessage(http.StatusNotFound, "404 Not Found")
}

func artifactViews(j *job) []map[string]any {
	out := []map[string]any{}
	for _, a := range j.Artifacts {
		out = append(out, map[string]any{"file_type": a.Type, "size": a.Size, "filename": a.Filename, "file_format": a.Format})
	}
	if len(j.trace) > 0 && j.Status.Finished() {
		out = append(out, map[string]any{"file_type": "trace", "size": len(j.trace), "filename": "job.log", "file_format": nil})
	}
	return out
}
