package flintlocktest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// MetadataStoreLimit is how many bytes of JSON Firecracker's metadata service takes; above, the VMM ends at once.
// Source: --mmds-size-limit of Firecracker, which flintlockd does not set.
const MetadataStoreLimit = 51200

// MetadataAddress is where a guest finds its metadata.
const MetadataAddress = "169.254.169.254"

// MetadataHandler answers as Firecracker's metadata service in version 1 does for a store of {"latest": values}: GET
// /latest/KEY is the value as plain text, GET of a folder lists its keys, Accept: application/json gets JSON. There is
// no token: any process in the guest may read it.
// Source: https://github.com/firecracker-microvm/firecracker/blob/main/docs/mmds/mmds-user-guide.md
func MetadataHandler(values map[string]string) http.Handler {
	values = maps.Clone(values)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Not allowed HTTP method.", http.StatusMethodNotAllowed)
			return
		}
		asJSON := strings.Contains(r.Header.Get("Accept"), "application/json")
		found, text, list := lookUpMetadata(values, r.URL.Path)
		switch {
		case found == nil:
			http.Error(w, "Resource not found: "+r.URL.Path+".", http.StatusNotFound)
		case asJSON:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(found)
		case list != nil:
			writePlain(w, strings.Join(list, "\n"))
		default:
			writePlain(w, text)
		}
	})
}

// lookUpMetadata finds what a path stands for: a text, or a folder with the names in it.
func lookUpMetadata(values map[string]string, path string) (found any, text string, list []string) {
	switch key := metadataPath(path); {
	case key == "":
		return map[string]any{"latest": values}, "", []string{"latest/"}
	case key == "latest":
		return values, "", slices.Sorted(maps.Keys(values))
	case strings.HasPrefix(key, "latest/"):
		value, ok := values[strings.TrimPrefix(key, "latest/")]
		// A key with a slash in it is stored but no path leads to it.
		if !ok || strings.Contains(strings.TrimPrefix(key, "latest/"), "/") {
			return nil, "", nil
		}
		return value, value, nil
	}
	return nil, "", nil
}

func writePlain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(text))
}

// metadataStoreBytes is how large Firecracker finds the store.
func metadataStoreBytes(values map[string]string) int {
	text, err := json.Marshal(map[string]any{"latest": values})
	if err != nil {
		return 0 // texts always marshal
	}
	return len(text)
}
