package row

import (
	"reflect"
	"strings"
	"unicode/utf8"
)

// Text is a text as every store can hold it: valid UTF-8 without zero bytes
// (https://www.postgresql.org/docs/15/multibyte.html); what is not becomes U+FFFD. Names of jobs and reports of guests are
// whatever somebody wrote: they must not make a write fail, and mean the same on each engine.
func Text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// storable is a row with each of its texts so.
func storable[Row any](row Row) Row {
	v := reflect.ValueOf(&row).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			if s := f.String(); strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
				f.SetString(Text(s))
			}
		}
	}
	return row
}
