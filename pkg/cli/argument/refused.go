package argument

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
)

// RefusedFlagError is that of a flag of docker that means nothing here: it says
// what to do instead.
type RefusedFlagError string

func (e RefusedFlagError) Error() string { return string(e) }

// refusedFlag is a flag that explains why it is none.
type refusedFlag string

func (refusedFlag) String() string     { return "" }
func (refusedFlag) Type() string       { return "string" }
func (r refusedFlag) Set(string) error { return RefusedFlagError(r) }

// Harmless is a flag of docker's that is taken where it asks for what is the case
// anyhow: with the value Only, or, if that is empty, with any.
type Harmless struct {
	Boolean bool
	Only    string
	// Why other values are refused.
	Why string
}

func (Harmless) String() string { return "" }

// Type is part of pflag.Value.
func (h Harmless) Type() string {
	if h.Boolean {
		return "bool"
	}
	return "string"
}

// Set is part of pflag.Value.
func (h Harmless) Set(value string) error {
	if h.Boolean {
		yes, err := strconv.ParseBool(value)
		if err != nil {
			return err
		}
		value = strconv.FormatBool(yes)
	}
	if h.Only != "" && value != h.Only {
		return errors.New("it can only be " + h.Only + ": " + h.Why)
	}
	return nil
}

// Add adds the flag to f, and to no help.
func (h Harmless) Add(f *pflag.FlagSet, name string) { h.AddP(f, name, "") }

// AddP is Add for a flag with a short form.
func (h Harmless) AddP(f *pflag.FlagSet, name, shorthand string) {
	flag := f.VarPF(h, name, shorthand, h.Why)
	flag.Hidden = true
	if h.Boolean {
		flag.NoOptDefVal = "true"
	}
}

// Refuse adds a flag of docker's that says why there is none.
func Refuse(f *pflag.FlagSet, name, why string) {
	flag := f.VarPF(refusedFlag("--"+name+" "+why), name, "", why)
	flag.Hidden = true
	flag.NoOptDefVal = " " // with or without a value
}
