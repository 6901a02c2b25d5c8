package build

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/credentials"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// plan is what goes to the daemon: the request, and contexts to send after it.
type plan struct {
	open     *nodev1.BuildOpen
	contexts []sending
	// agents are the sockets of SSH agents by id.
	agents map[string]string
	// output takes what the daemon makes instead of an image.
	output *output
}

// sending is a context to send.
type sending struct {
	name string
	// tar is a tar that is there already; else the files of dir are sent.
	tar io.Reader
	dir string
	// dockerfile is the definition's path in dir, which is sent whatever
	// .dockerignore says; empty where it is elsewhere.
	ignore []string
}

// plan puts the flags in the daemon's words.
func (o *options) plan(cmd *cobra.Command) (*plan, error) {
	p := &plan{agents: map[string]string{}, open: &nodev1.BuildOpen{
		Tags: o.tags, Target: o.target, NoCache: o.noCache, NoCacheFilter: o.noCacheFilter, Pull: o.pull,
		Platforms: o.platforms, Network: o.network, Allow: o.allow, Contexts: map[string]string{}, Secrets: map[string][]byte{},
	}}
	if !slices.Contains([]string{"", "default", "none", "host"}, o.network) {
		return nil, fmt.Errorf("--network %s: use default, none or host", o.network)
	}
	var err error
	steps := []func() error{
		func() error { p.open.BuildArgs, err = keyValues("--build-arg", o.buildArgs, true); return err },
		func() error { p.open.Labels, err = keyValues("--label", o.labels, false); return err },
		func() error { return o.planSecrets(p) },
		func() error { return o.planAgents(p) },
		func() error { return o.planLimits(p) },
		func() error { return o.planContexts(p) },
		func() error { return o.planContext(p, cmd.InOrStdin()) },
		func() error { p.open.Auths, err = credentials.All(); return err },
		func() error { p.output, err = parseOutput(o.output, cmd.OutOrStdout()); return err },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if p.output != nil {
		p.open.Output = &nodev1.BuildOpen_Output{Type: p.output.kind}
	}
	return p, nil
}

// keyValues parses NAME=value; NAME alone is from the environment where that is
// allowed, and left out where it is not set.
func keyValues(flag string, list []string, environment bool) (map[string]string, error) {
	m := map[string]string{}
	for _, kv := range list {
		key, value, ok := strings.Cut(kv, "=")
		if key == "" {
			return nil, fmt.Errorf("%s %q: want NAME=value", flag, kv)
		}
		if !ok && environment {
			if value, ok = os.LookupEnv(key); !ok {
				continue
			}
		}
		m[key] = value
	}
	return m, nil
}

// fields parses a list of key=value with commas, as --secret has it.
func fields(s string) map[string]string {
	m := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(part, "=")
		m[strings.TrimSpace(key)] = value
	}
	return m
}

// planSecrets reads secrets.
func (o *options) planSecrets(p *plan) error {
	for _, s := range o.secrets {
		f := fields(s)
		id := f["id"]
		if id == "" {
			return fmt.Errorf("--secret %q: want id=ID,src=FILE or id=ID,env=NAME", s)
		}
		file := f["src"]
		if file == "" {
			file = f["source"]
		}
		name := f["env"]
		if f["type"] == "env" && name == "" {
			name, file = file, ""
			if name == "" {
				name = id
			}
		}
		switch {
		case file != "":
			b, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("--secret %s: %w", id, err)
			}
			p.open.Secrets[id] = b
		case name != "":
			value, ok := os.LookupEnv(name)
			if !ok {
				return fmt.Errorf("--secret %s: the environment has no %s", id, name)
			}
			p.open.Secrets[id] = []byte(value)
		default:
			if value, ok := os.LookupEnv(id); ok {
				p.open.Secrets[id] = []byte(value)
				continue
			}
			return fmt.Errorf("--secret %q: want id=ID,src=FILE or id=ID,env=NAME", s)
		}
	}
	return nil
}

// planAgents finds SSH agents.
func (o *options) planAgents(p *plan) error {
	for _, s := range o.ssh {
		id, socket, ok := strings.Cut(s, "=")
		if !ok || socket == "" {
			socket = os.Getenv("SSH_AUTH_SOCK")
		}
		if id == "" {
			id = "default"
		}
		info, err := os.Stat(socket)
		if socket == "" || err != nil || info.Mode()&fs.ModeSocket == 0 {
			return fmt.Errorf("--ssh %s: %q is no socket of an SSH agent: start ssh-agent, or give ID=SOCKET", s, socket)
		}
		p.agents[id] = socket
		p.open.Agents = append(p.open.Agents, id)
	}
	return nil
}

// planLimits parses hosts, sizes and limits.
func (o *options) planLimits(p *plan) error {
	for _, h := range o.addHosts {
		name, ip, ok := strings.Cut(h, "=")
		if !ok {
			name, ip, ok = strings.Cut(h, ":")
		}
		ip = strings.Trim(ip, "[]")
		if !ok || name == "" || net.ParseIP(ip) == nil {
			return fmt.Errorf("--add-host %q: want HOST:IP", h)
		}
		p.open.ExtraHosts = append(p.open.ExtraHosts, name+"="+ip)
	}
	var err error
	if o.shmSize != "" {
		if p.open.ShmSize, err = parseSize(o.shmSize); err != nil {
			return fmt.Errorf("--shm-size: %w", err)
		}
	}
	for _, u := range o.ulimits {
		name, value, ok := strings.Cut(u, "=")
		soft, hard, two := strings.Cut(value, ":")
		if !two {
			hard = soft
		}
		s, err1 := strconv.ParseInt(soft, 10, 64)
		h, err2 := strconv.ParseInt(hard, 10, 64)
		if !ok || errors.Join(err1, err2) != nil {
			return fmt.Errorf("--ulimit %q: want NAME=SOFT[:HARD]", u)
		}
		p.open.Ulimits = append(p.open.Ulimits, &nodev1.Ulimit{Name: name, Soft: s, Hard: h})
	}
	return nil
}

// parseSize reads 64m, as docker does.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(strings.ToLower(s), "bkmgi")
	n, err := strconv.ParseInt(digits, 10, 64)
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s[len(digits):]), "b"), "i")
	shift, known := map[string]int{"": 0, "k": 10, "m": 20, "g": 30}[unit]
	if err != nil || !known || n < 0 || n > 1<<30 {
		return 0, fmt.Errorf("%q is no size such as 64m", s)
	}
	return n << shift, nil
}

// planContexts parses named contexts. A directory is sent; all else is for the
// daemon.
func (o *options) planContexts(p *plan) error {
	for _, c := range o.contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("--build-context %q: want NAME=VALUE", c)
		}
		name = strings.ToLower(name)
		if strings.Contains(value, "://") {
			p.open.Contexts[name] = value
			continue
		}
		info, err := os.Stat(value)
		if err != nil || !info.IsDir() {
			return errors.Join(fmt.Errorf("--build-context %s: %q is no directory, docker-image:// or URL", name, value), err)
		}
		ignore, err := ignorePatterns(filepath.Join(value, ".dockerignore"))
		if err != nil {
			return err
		}
		p.open.Contexts[name] = "local:" + name
		p.contexts = append(p.contexts, sending{name: name, dir: value, ignore: ignore})
	}
	return nil
}

// planContext finds the context and the Dockerfile.
func (o *options) planContext(p *plan, stdin io.Reader) error {
	if o.context == "-" && o.file == "-" {
		return errors.New("the context and the Dockerfile cannot both be standard input")
	}
	if o.file == "-" {
		var err error
		if p.open.Dockerfile, err = readStdin(stdin); err != nil {
			return err
		}
		p.open.DockerfileName = "Dockerfile"
	}
	switch {
	case o.context == "-":
		return o.planStdin(p, stdin)
	case IsURL(o.context):
		p.open.ContextUrl = o.context
		if o.file != "" && o.file != "-" {
			p.open.DockerfileName = o.file
		}
		return nil
	}
	return o.planDirectory(p)
}

// planStdin tells a tar from a Dockerfile.
func (o *options) planStdin(p *plan, stdin io.Reader) error {
	in := bufio.NewReaderSize(stdin, 64<<10)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read standard input: %w", err)
	}
	if isTar(head) {
		p.open.DockerfileName = o.file
		p.contexts = append(p.contexts, sending{tar: in})
		return nil
	}
	if o.file != "" {
		return errors.New("--file names a file in the context, and standard input is a Dockerfile")
	}
	if p.open.Dockerfile, err = readStdin(in); err != nil {
		return err
	}
	if len(bytes.TrimSpace(p.open.Dockerfile)) == 0 {
		return errors.New("the Dockerfile on standard input is empty")
	}
	p.open.DockerfileName = "Dockerfile"
	empty := bytes.NewReader(make([]byte, 1024)) // a tar without anything in it
	p.contexts = append(p.contexts, sending{tar: empty})
	return nil
}

// isTar looks at the first block, or at the magic of a compression.
func isTar(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "BZh", "\xfd7zXZ"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) == 512 && bytes.HasPrefix(head[257:], []byte("ustar"))
}

// planDirectory reads the Dockerfile and what is not to be sent.
func (o *options) planDirectory(p *plan) error {
	info, err := os.Stat(o.context)
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("build context %s is no directory; a Dockerfile goes with --file, or as \"build - < FILE\"", o.context)
	}
	file := o.file
	if file == "" {
		file = filepath.Join(o.context, "Dockerfile")
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			lower := filepath.Join(o.context, "dockerfile")
			if _, err := os.Stat(lower); err == nil {
				file = lower
			}
		}
	}
	ignoreFile := filepath.Join(o.context, ".dockerignore")
	if file != "-" {
		if err := readDockerfile(p, file); err != nil {
			return err
		}
		if len(p.open.Dockerignore) > 0 {
			ignoreFile = file + ".dockerignore"
		}
	}
	ignore, err := ignorePatterns(ignoreFile)
	if err != nil {
		return err
	}
	p.contexts = append(p.contexts, sending{dir: o.context, ignore: ignore})
	return nil
}

func readDockerfile(p *plan, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read Dockerfile: %w (another one goes with --file)", err)
	}
	defer f.Close()
	if p.open.Dockerfile, err = readStdin(f); err != nil {
		return err
	}
	if len(p.open.Dockerfile) == 0 {
		return fmt.Errorf("the Dockerfile %s is empty", file)
	}
	p.open.DockerfileName = filepath.Base(file)
	p.open.Dockerignore, err = os.ReadFile(file + ".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeMetadata writes what was built, with the keys that buildx uses.
func writeMetadata(file string, r *nodev1.BuildResponse_Result) error {
	m := map[string]string{"containerimage.config.digest": r.GetImageId()}
	if d := r.GetManifestDigest(); d != "" {
		m["containerimage.digest"] = d
	}
	if len(r.GetNames()) > 0 {
		m["image.name"] = strings.Join(r.GetNames(), ",")
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644) //nolint:gosec // nothing secret
}
