package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Setting is one key with the value in force.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"` // a secret says [redacted]
	Source string `json:"source"`
}

// Settings returns every key outside of profiles, in the order of the file.
func (c *Config) Settings() []Setting {
	var all []Setting
	config, defaults := reflect.ValueOf(*c), reflect.ValueOf(Default())
	for _, l := range leaves() {
		value := config.FieldByIndex(l.index)
		s := Setting{Key: l.key, Value: fmt.Sprint(value.Interface()), Source: "default"}
		if o, given := c.origins[l.key]; given {
			s.Source = strings.TrimSuffix(Problem{Source: o.source, Line: o.line}.String(), ": ")
		} else if o, given := c.origins[l.key+fileSuffix]; given && l.kind == typeSecret {
			s.Source = strings.TrimSuffix(Problem{Source: o.source, Line: o.line}.String(), ": ")
		} else if !reflect.DeepEqual(value.Interface(), defaults.FieldByIndex(l.index).Interface()) {
			s.Source = "machine"
		}
		all = append(all, s)
	}
	return all
}
