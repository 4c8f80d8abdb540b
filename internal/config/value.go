package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// setText puts one value as a user writes it into a leaf that is no list. Its errors never repeat the value of a
// secret: a secret takes any text.
func setText(to reflect.Value, text string) error {
	switch to.Type() {
	case typeDuration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration: write a number and a unit, such as 30s, 5m or 24h", short(text))
		}
		to.SetInt(int64(d))
		return nil
	case typeSwitch:
		b := new(bool)
		if err := setText(reflect.ValueOf(b).Elem(), text); err != nil {
			return err
		}
		to.Set(reflect.ValueOf(b))
		return nil
	}
	switch to.Kind() {
	case reflect.String:
		to.SetString(text)
	case reflect.Int:
		n, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
		if err != nil {
			return fmt.Errorf("%q is not a whole number", short(text))
		}
		to.SetInt(int64(n))
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", short(text))
		}
		to.SetFloat(f)
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true":
			to.SetBool(true)
		case "false":
			to.SetBool(false)
		default:
			return fmt.Errorf("%q is neither true nor false", short(text))
		}
	default:
		return errors.New("cannot be set by one value")
	}
	return nil
}

// setList puts a list into a leaf that is one.
func setList(to reflect.Value, items []string) error {
	switch to.Type() {
	case typeStrings:
		to.Set(reflect.ValueOf(items))
		return nil
	case typePrefixes:
		prefixes := make([]netip.Prefix, 0, len(items))
		for _, item := range items {
			p, err := parsePrefix(item)
			if err != nil {
				return fmt.Errorf("%q is not a network: write it as 10.0.0.0/8, or a single address", short(item))
			}
			prefixes = append(prefixes, p)
		}
		to.Set(reflect.ValueOf(prefixes))
		return nil
	}
	return errors.New("is not a list")
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// short keeps a wrong value from filling the screen.
func short(text string) string {
	const most = 60
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// wants says what a leaf takes, for messages.
func wants(t reflect.Type) string {
	switch {
	case isList(t):
		return "a list"
	case t == typeDuration:
		return "a duration"
	case t == typeSwitch || t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a text"
}
