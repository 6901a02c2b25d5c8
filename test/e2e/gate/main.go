// Command gate holds an operation of the node at an exact place, so that a test
// can kill the daemon there. It stands in for two things:
//
//   - an OCI runtime: placed as <dir>/runc with the real one at <dir>/real, it
//     waits at the subcommand a test wants to hold and then becomes the real one;
//   - a CNI plugin at the end of a chain (when CNI_COMMAND is set): it waits and
//     then passes the previous result on.
//
// A test creates <dir>/hold/<name> to close a gate (name is the subcommand, or
// cni-ADD, cni-DEL). The gate answers by creating <dir>/hold/<name>.reached and
// waits until <dir>/hold/<name> is gone.
//
// Where <dir>/record is there, each run appends its name and its TRACEPARENT to it,
// in a line.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/cri-node/cri-node/test/e2e/pace"
)

// longestHold bounds a wait, so that a test that died leaves no process for ever.
const longestHold = 60 * time.Second

func main() {
	exe, err := os.Executable()
	if err != nil {
		fail(err)
	}
	dir := filepath.Dir(exe)
	if command := os.Getenv("CNI_COMMAND"); command != "" {
		record(dir, "cni-"+command)
		if err := plugin(filepath.Join(dir, "hold"), command); err != nil {
			fail(err)
		}
		return
	}
	subcommands := []string{"create", "start", "run", "exec", "kill", "delete", "update", "state"}
	for _, arg := range os.Args[1:] {
		if slices.Contains(subcommands, arg) {
			record(dir, arg)
			wait(filepath.Join(dir, "hold"), arg)
			break
		}
	}
	real := filepath.Join(dir, "real")
	argv := append([]string{real}, os.Args[1:]...)
	fail(syscall.Exec(real, argv, os.Environ()))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "gate:", err)
	os.Exit(1)
}

// record notes a run where a test asks for it.
func record(dir, name string) {
	f, err := os.OpenFile(filepath.Join(dir, "record"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	fmt.Fprintf(f, "%s %s\n", name, os.Getenv("TRACEPARENT"))
	_ = f.Close() // a test misses the line
}

// wait blocks while the gate is closed.
func wait(dir, name string) {
	gate := filepath.Join(dir, name)
	if _, err := os.Stat(gate); err != nil {
		return
	}
	if err := os.WriteFile(gate+".reached", nil, 0o600); err != nil {
		return
	}
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(pace.Limit(longestHold)); time.Now().Before(deadline); {
		if _, err := os.Stat(gate); err != nil {
			return
		}
		<-ticker.C
	}
}

// plugin is the CNI side.
func plugin(dir, command string) error {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if command == "VERSION" {
		_, err := fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}`)
		return err
	}
	wait(dir, "cni-"+command)
	if command != "ADD" {
		return nil
	}
	var conf struct {
		CNIVersion string                     `json:"cniVersion"`
		PrevResult map[string]json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(input, &conf); err != nil {
		return fmt.Errorf("parse configuration: %w", err)
	}
	if conf.PrevResult == nil {
		conf.PrevResult = map[string]json.RawMessage{}
	}
	version, err := json.Marshal(conf.CNIVersion)
	if err != nil {
		return err
	}
	conf.PrevResult["cniVersion"] = version
	return json.NewEncoder(os.Stdout).Encode(conf.PrevResult)
}
