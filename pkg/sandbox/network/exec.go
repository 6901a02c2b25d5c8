package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// ErrPluginMissing means that a plugin a network needs is in none of the plugin
// directories. Whatever it did earlier cannot be undone until it is back.
var ErrPluginMissing = errors.New("CNI plugin not found")

const (
	// pluginTimeout bounds one plugin where the request has no nearer deadline.
	pluginTimeout = 2 * time.Minute
	// maxOutput bounds what is kept of a plugin's output.
	maxOutput = 4 << 20
	// maxDiagnostic bounds what an error message quotes of it.
	maxDiagnostic = 4096
	// pipeDelay is how long a plugin that has exited may leave its output open.
	pipeDelay = 2 * time.Second
)

// builtinPrefix marks, as the path of a plugin, one that runs in this process.
const builtinPrefix = "builtin:"

// operation runs the plugins of one libcni call. It is libcni's invoke.Exec.
type operation struct {
	version.PluginDecoder
	n  *Network
	id string // "" for operations on the network itself
	// rec is the attachment, nil for operations on the network itself.
	rec *intent
	// inProcess lets plugins run in this process that can.
	inProcess bool
	// mayRetire lets DEL leave the pod's interfaces to the reaper.
	mayRetire bool
	// lock is inherited by plugin processes; see awaitOrphans. Taken when the
	// first one starts.
	lock *os.File
}

var _ invoke.Exec = (*operation)(nil)

// close lets go of the lock; plugin processes that still live keep theirs.
func (o *operation) close() error {
	if o.lock == nil {
		return nil
	}
	return o.lock.Close()
}

// FindInPath implements invoke.Exec.
func (o *operation) FindInPath(plugin string, _ []string) (string, error) {
	if o.inProcess && isBuiltin(plugin) {
		return builtinPrefix + plugin, nil
	}
	return o.n.findPlugin(plugin)
}

// ExecPlugin implements invoke.Exec.
func (o *operation) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	env := pluginEnv(environ)
	ctx, end := progress.Start(ctx, "CNI "+env["CNI_COMMAND"], "cni.plugin", strings.TrimPrefix(filepath.Base(path), builtinPrefix))
	defer func() { end(err) }()
	if told := o.n.cfg.OnPlugin; told != nil {
		begin := time.Now()
		defer func() {
			told(env["CNI_COMMAND"], filepath.Base(strings.TrimPrefix(path, builtinPrefix)), time.Since(begin), err)
		}()
	}
	if name, ok := strings.CutPrefix(path, builtinPrefix); ok {
		out, err := o.runBuiltin(ctx, name, stdin, env)
		if !errors.Is(err, errNotBuiltin) {
			return out, err
		}
		if path, err = o.n.findPlugin(name); err != nil {
			return nil, err
		}
	}
	return o.run(ctx, path, stdin, env)
}

// findPlugin looks a plugin up in the plugin directories. A file that others
// than root can change would run as root, so it is refused.
func (n *Network) findPlugin(name string) (string, error) {
	if !pluginName.MatchString(name) {
		return "", fmt.Errorf("plugin type %q is not a bare file name", name)
	}
	for _, dir := range n.cfg.PluginDirs {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("look for CNI plugin: %w", err)
		}
		sys, ok := st.Sys().(*syscall.Stat_t)
		switch {
		case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
			return "", fmt.Errorf("CNI plugin %s is no executable file", path)
		case !ok || sys.Uid != 0 || st.Mode()&0o022 != 0:
			return "", fmt.Errorf("CNI plugin %s can be changed by others than root: make root its owner and take away write permission of group and others", path)
		}
		return path, nil
	}
	return "", fmt.Errorf("%w: %q in %s", ErrPluginMissing, name, strings.Join(n.cfg.PluginDirs, ", "))
}

// cniVariables are the only ones a plugin gets, beside PATH and the span it runs
// below: nothing of the daemon's own environment is meant for it.
var cniVariables = []string{"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_ARGS", "CNI_IFNAME", "CNI_PATH"}

// pluginEnv picks the CNI variables from what libcni makes of our environment.
func pluginEnv(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		if key, value, ok := strings.Cut(kv, "="); ok && slices.Contains(cniVariables, key) {
			env[key] = value
		}
	}
	return env
}

// run executes a plugin in a process group of its own and kills the whole
// group when ctx ends.
func (o *operation) run(ctx context.Context, path string, stdin []byte, env map[string]string) ([]byte, error) {
	if err := o.takeLock(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start CNI plugin %s: %w", path, err)
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	searchPath := os.Getenv("PATH")
	if searchPath == "" {
		searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	cmd.Env = []string{"PATH=" + searchPath}
	for _, key := range cniVariables {
		if value, ok := env[key]; ok {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, progress.Environment(ctx)...)
	var stdout, stderr limitedBuffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if o.lock != nil {
		cmd.ExtraFiles = []*os.File{o.lock}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = pipeDelay
	err := cmd.Run()
	if ctxErr := ctx.Err(); ctxErr != nil && err != nil {
		return nil, fmt.Errorf("kill CNI plugin %s at the deadline: %w%s", path, ctxErr, diagnostic(stderr.Bytes()))
	}
	if err != nil {
		return nil, pluginError(path, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// takeLock makes the flock that tells a later DEL that a plugin still runs.
func (o *operation) takeLock() error {
	if o.id == "" || o.lock != nil {
		return nil
	}
	lock, err := linux.Lock(o.n.lockPath(o.id))
	if err != nil {
		return fmt.Errorf("lock network of %s: %w", o.id, err)
	}
	o.lock = lock
	return nil
}

// pluginError prefers what the plugin says, in the form CNI demands.
func pluginError(path string, err error, stdout, stderr []byte) error {
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && (said.Msg != "" || said.Code != 0) {
		said.Msg, said.Details = clean(said.Msg), clean(said.Details)
		return &said
	}
	out := stderr
	if len(bytes.TrimSpace(out)) == 0 {
		out = stdout
	}
	return fmt.Errorf("run CNI plugin %s: %w%s", path, err, diagnostic(out))
}

// diagnostic is the end of a plugin's output in a form fit for an error.
func diagnostic(out []byte) string {
	text := clean(string(out))
	if text == "" {
		return ""
	}
	return ": " + text
}

// clean makes foreign text safe to print, and short.
func clean(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxDiagnostic {
		s = "…" + s[len(s)-maxDiagnostic:]
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// limitedBuffer keeps the first maxOutput bytes and swallows the rest, so that
// a plugin gone wild neither fills memory nor blocks.
type limitedBuffer struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		if _, err := b.Buffer.Write(p[:min(room, len(p))]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
