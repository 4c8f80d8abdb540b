package gitlabtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The one user that everything in the emulator belongs to.
const (
	userID       = 1
	userName     = "root"
	userFullName = "Administrator"
	userEmail    = "admin@example.com"
)

// apiError is an answer that is not a success, in one of GitLab's JSON shapes.
type apiError struct {
	status int
	body   any
	header http.Header
}

func (e *apiError) Error() string { return fmt.Sprintf("HTTP %d: %v", e.status, e.body) }

// apiMessage is the shape of errors that GitLab's own code raises: {"message": "404 Project Not Found"}.
func apiMessage(status int, message any) *apiError {
	return &apiError{status: status, body: map[string]any{"message": message}}
}

// apiParam is the shape of errors that its parameter validation raises: {"error": "runner_type is missing"}.
func apiParam(format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, body: map[string]any{"error": fmt.Sprintf(format, args...)}}
}

// apiInvalid is the shape of a record that fails validation: {"message": {"field": ["reason"]}}.
func apiInvalid(status int, field, reason string) *apiError {
	return apiMessage(status, map[string][]string{field: {reason}})
}

func notFound(what string) *apiError {
	return apiMessage(http.StatusNotFound, strings.ReplaceAll("404 "+what+" Not Found", "  ", " "))
}

func forbidden(reason string) *apiError {
	message := "403 Forbidden"
	if reason != "" {
		message += " - " + reason
	}
	return apiMessage(http.StatusForbidden, message)
}

// oauthError is the shape of RFC 6750 errors, which GitLab uses for tokens.
func oauthError(status int, code, description string, scopes []string) *apiError {
	body := map[string]any{"error": code, "error_description": description}
	if scopes != nil {
		body["scope"] = strings.Join(scopes, " ")
	}
	return &apiError{status: status, body: body}
}

// writeJSON answers as GitLab does; a nil value has no body.
func writeJSON(w http.ResponseWriter, status int, v any) {
	if v == nil {
		w.WriteHeader(status)
		return
	}
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"message":"500 Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is its own affair
}

func writeError(w http.ResponseWriter, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = apiMessage(http.StatusInternalServerError, "500 Internal Server Error")
	}
	for name, values := range e.header {
		w.Header()[name] = values
	}
	writeJSON(w, e.status, e.body)
}

// apiTime is the REST API's form of a time: milliseconds, or null.
func apiTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func apiDate(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.DateOnly)
}

// wholeSeconds is seconds rounded down.
func wholeSeconds(from, to time.Time) any {
	if from.IsZero() || to.IsZero() {
		return nil
	}
	return int64(to.Sub(from) / time.Second)
}

// seconds is the time between two moments, or null while either is missing.
func seconds(from, to time.Time) any {
	if from.IsZero() || to.IsZero() {
		return nil
	}
	return to.Sub(from).Seconds()
}

// rawJSON puts a stored body into an answer as it is.
func rawJSON(body []byte) any {
	if !json.Valid(body) {
		return nil
	}
	return json.RawMessage(body)
}
