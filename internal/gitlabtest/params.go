package gitlabtest

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const maxParamBytes = 4 << 20

// params are a call's parameters: GitLab merges query string and body, and takes JSON and forms alike.
type params map[string]any

func readParams(r *http.Request) (params, error) {
	p := params{}
	p.addForm(r.URL.Query())
	if r.Body == nil || r.ContentLength == 0 {
		return p, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxParamBytes+1))
	if err != nil {
		return nil, apiParam("reading the body: %v", err)
	}
	if len(body) > maxParamBytes {
		return nil, &apiError{status: http.StatusRequestEntityTooLarge, body: map[string]any{"error": "Request Entity Too Large"}}
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case len(body) == 0:
	case kind == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, apiParam("the form cannot be read: %v", err)
		}
		p.addForm(form)
	default:
		var object map[string]any
		if err := json.Unmarshal(body, &object); err != nil {
			return nil, apiParam("The provided content-type and body cannot be parsed: %v", err)
		}
		for k, v := range object {
			p[k] = v
		}
	}
	return p, nil
}

func (p params) addForm(form url.Values) {
	for k, values := range form {
		if name, ok := strings.CutSuffix(k, "[]"); ok {
			list := make([]any, len(values))
			for i, v := range values {
				list[i] = v
			}
			p[name] = list
		} else {
			p[k] = values[len(values)-1]
		}
	}
}

func (p params) has(key string) bool { return p[key] != nil }

func (p params) text(key string) string {
	switch v := p[key].(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

// number reads an integer; an absent one is zero.
func (p params) number(key string) (int64, error) {
	text := p.text(key)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, apiParam("%s is invalid", key)
	}
	return n, nil
}

// flag reads a boolean into *into, which stays as it is when the key is absent.
func (p params) flag(key string, into *bool) error {
	switch strings.ToLower(p.text(key)) {
	case "":
	case "true", "1", "t":
		*into = true
	case "false", "0", "f":
		*into = false
	default:
		return apiParam("%s is invalid", key)
	}
	return nil
}

// list reads an array, or one comma-separated string: both forms are in use for tag_list.
func (p params) list(key string) []string {
	var out []string
	add := func(s string) {
		for part := range strings.SplitSeq(s, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	switch v := p[key].(type) {
	case string:
		add(v)
	case []any:
		for _, item := range v {
			add(fmt.Sprint(item))
		}
	}
	return out
}
