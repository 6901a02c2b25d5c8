package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	unixScheme = "unix://"
	// maxSocketPath is sizeof(sockaddr_un.sun_path) less its final NUL.
	maxSocketPath = 107
	// maxInterfaceName is IFNAMSIZ less its final NUL.
	maxInterfaceName = 15
)

// Validate checks everything that can be checked without touching the machine
// and returns all mistakes, each as "file:line: key: what".
func (c *Config) Validate() error {
	v := &validator{origins: c.origins}
	v.directories(c)
	v.server(c.Server)
	v.log(c.Log)
	v.image(c.Image)
	v.signatures(c.Image)
	v.network(c.Network)
	v.runtime(c.Runtime)
	v.handlers(c.Runtime)
	v.streaming(c.Streaming)
	v.nri(c.NRI)
	v.tracing(c.Tracing)
	v.require(c.Build.CacheSize > 0, "build.cache_size", "is %s, want more than 0", c.Build.CacheSize)
	v.require(c.People.LogMaxSize == 0 || c.People.LogMaxSize >= 1<<10, "people.log_max_size", "is %s, want 0 or 1KiB and more", c.People.LogMaxSize)
	v.require(c.People.LogMaxFiles >= 1 && c.People.LogMaxFiles <= 1000, "people.log_max_files", "is %d, want 1 to 1000", c.People.LogMaxFiles)
	v.require(c.Checkpoint.KeyFile == "" || filepath.IsAbs(c.Checkpoint.KeyFile), "checkpoint.key_file", "is %q, want an absolute path", c.Checkpoint.KeyFile)
	v.check("admin.address", adminAddress(c.Admin.Address))
	return errors.Join(v.errs...)
}

// validator collects mistakes.
type validator struct {
	origins map[string]origin
	errs    []error
}

// check notes err, unless nil, as a mistake of key.
func (v *validator) check(key string, err error) {
	if err == nil {
		return
	}
	if o, ok := v.origins[key]; ok {
		v.errs = append(v.errs, fmt.Errorf("%s: %s: %w", o, key, err))
		return
	}
	v.errs = append(v.errs, fmt.Errorf("%s: %w", key, err))
}

// require notes a mistake of key unless ok.
func (v *validator) require(ok bool, key, format string, args ...any) {
	if !ok {
		v.check(key, fmt.Errorf(format, args...))
	}
}

func (v *validator) directories(c *Config) {
	v.check("root", ownDirectory(c.Root))
	v.check("state", ownDirectory(c.State))
	v.require(!inside(c.Root, c.State), "root", "is %q, inside state %q", c.Root, c.State)
	v.require(!inside(c.State, c.Root), "state", "is %q, inside root %q", c.State, c.Root)
}

func (v *validator) server(s Server) {
	path, ok := strings.CutPrefix(s.Listen, unixScheme)
	v.require(ok, "server.listen", "is %q, want unix:// and a path", s.Listen)
	if ok {
		v.check("server.listen", socketPath(path))
	}
	v.require(s.SocketGID >= 0, "server.socket_gid", "is %d, want a group id", s.SocketGID)
	v.require(s.MaxRecv >= 1<<20 && s.MaxRecv <= 1<<30, "server.max_recv", "is %s, want 1MiB to 1GiB", s.MaxRecv)
}

func (v *validator) log(l Log) {
	v.require(l.Level >= 0 && l.Level <= 10, "log.level", "is %d, want 0 to 10", l.Level)
	v.require(l.Format == FormatText || l.Format == FormatJSON,
		"log.format", "is %q, want %q or %q", l.Format, FormatText, FormatJSON)
}

func (v *validator) image(i Image) {
	v.absolutePaths("image.certs_dirs", i.CertsDirs)
	v.absolutePaths("image.auth_files", i.AuthFiles)
	for _, host := range i.TrustedRealms {
		u, err := url.Parse("https://" + host)
		v.require(err == nil && host != "" && u.Host == host && !strings.HasSuffix(host, ":"),
			"image.trusted_realms", "%q is no HOST or HOST:PORT", host)
	}
	v.require(i.MaxParallelLayers >= 1 && i.MaxParallelLayers <= 64,
		"image.max_parallel_layers", "is %d, want 1 to 64", i.MaxParallelLayers)
	v.require(i.ProgressTimeout.Duration >= time.Second,
		"image.progress_timeout", "is %s, want 1s or more", i.ProgressTimeout)
	for _, name := range i.Pinned {
		v.require(name != "" && !strings.ContainsAny(name, " \t\n"), "image.pinned", "%q is no image name", name)
	}
}

func (v *validator) streaming(s Streaming) {
	secured := s.TLSCertFile != "" || s.TLSKeyFile != ""
	address, err := netip.ParseAddr(s.Address)
	v.require(err == nil, "streaming.address", "is %q, want an IP address", s.Address)
	v.require(err != nil || address.IsLoopback() || secured,
		"streaming.address", "is %s, which other machines reach; that takes streaming.tls_cert_file and tls_key_file", s.Address)
	v.require((s.TLSCertFile == "") == (s.TLSKeyFile == ""), "streaming.tls_key_file", "and streaming.tls_cert_file go together")
	v.require(s.TLSClientCAFile == "" || secured, "streaming.tls_client_ca_file", "is of no use without streaming.tls_cert_file")
	v.require(s.IdleTimeout.Duration >= time.Second, "streaming.idle_timeout", "is %s, want 1s or more", s.IdleTimeout)
	for key, path := range map[string]string{
		"streaming.tls_cert_file": s.TLSCertFile, "streaming.tls_key_file": s.TLSKeyFile, "streaming.tls_client_ca_file": s.TLSClientCAFile,
	} {
		if path != "" {
			v.check(key, absolute(path))
		}
	}
}

func (v *validator) network(n Network) {
	v.check("network.conf_dir", absolute(n.ConfDir))
	v.absolutePaths("network.plugin_dirs", n.PluginDirs)
	if n.ConfTemplate != "" {
		v.check("network.conf_template", absolute(n.ConfTemplate))
	}
	if n.DataDir != "" {
		v.check("network.data_dir", absolute(n.DataDir))
	}
	if !n.Default {
		return
	}
	v.check("network.default_bridge", interfaceName(n.DefaultBridge))
	v.check("network.default_subnets", subnets(n.DefaultSubnets))
}

// subnets wants at most one of each family, room for pods, and no host bits.
func subnets(prefixes []netip.Prefix) error {
	if len(prefixes) == 0 {
		return errors.New("is empty, want a subnet, or network.default = false")
	}
	families := make(map[bool]netip.Prefix)
	for _, p := range prefixes {
		is4 := p.Addr().Is4()
		if other, ok := families[is4]; ok {
			return fmt.Errorf("%s and %s are of one family, want at most one of each", other, p)
		}
		families[is4] = p
		switch {
		case p != p.Masked():
			return fmt.Errorf("%s has host bits, want %s", p, p.Masked())
		case p.Addr().BitLen()-p.Bits() < 3:
			return fmt.Errorf("%s has no room for pods", p)
		case p.Addr().IsMulticast(), p.Addr().IsLoopback(), p.Addr().Is4In6():
			return fmt.Errorf("%s is no range for pods", p)
		}
	}
	return nil
}

var (
	capabilityName  = regexp.MustCompile(`^CAP_[A-Z][A-Z_]*$`)
	environmentName = regexp.MustCompile(`^[^=\x00]+=[^\x00]*$`)
	sysctlName      = regexp.MustCompile(`^[a-z0-9_-]+([./][A-Za-z0-9_:-]+)+$`)
	// handlerName is what Kubernetes allows for the handler of a RuntimeClass.
	handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// canonicalCapability lets people write "chown" for "CAP_CHOWN".
func canonicalCapability(name string) string {
	name = strings.ToUpper(name)
	if name != "" && !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}

func (v *validator) runtime(r Runtime) {
	switch r.CgroupDriver {
	case CgroupAuto, CgroupSystemd, CgroupCgroupfs:
	default:
		v.require(false, "runtime.cgroup_driver", "is %q, want %q, %q or %q",
			r.CgroupDriver, CgroupAuto, CgroupSystemd, CgroupCgroupfs)
	}
	v.check("runtime.cgroup_root", cgroupRoot(r.CgroupRoot))
	for _, name := range r.DefaultCapabilities {
		v.require(capabilityName.MatchString(name), "runtime.default_capabilities", "%q is no capability", name)
	}
	v.require(r.PidsLimit >= 0, "runtime.pids_limit", "is %d, want 0 (none) or more", r.PidsLimit)
	for _, entry := range r.DefaultEnv {
		v.require(environmentName.MatchString(entry), "runtime.default_env", "%q is not NAME=value", entry)
	}
	v.require(r.MaxLogLine >= 256 && r.MaxLogLine <= 1<<20,
		"runtime.max_log_line", "is %s, want 256 bytes to 1MiB", r.MaxLogLine)
	v.require(r.CreateTimeout.Duration >= time.Second,
		"runtime.create_timeout", "is %s, want 1s or more", r.CreateTimeout)
	v.absolutePaths("runtime.cdi_dirs", r.CDIDirs)
	v.absolutePaths("runtime.hooks_dirs", r.HooksDirs)
	for _, name := range slices.Sorted(maps.Keys(r.DefaultSysctls)) {
		value := r.DefaultSysctls[name]
		key := "runtime.default_sysctls." + name
		v.require(sysctlName.MatchString(name), key, "%q is no sysctl", name)
		v.require(!strings.ContainsAny(value, "\n\x00"), key, "%q has a line break or NUL", value)
	}
}

func (v *validator) handlers(r Runtime) {
	for _, name := range slices.Sorted(maps.Keys(r.Handlers)) {
		h := r.Handlers[name]
		key := "runtime.handlers." + name
		v.require(handlerName.MatchString(name), key, "%q is no handler name (small letters, digits, '-')", name)
		if h.Path != "" {
			v.check(key+".path", absolute(h.Path))
		}
		if h.Root != "" {
			v.check(key+".root", ownDirectory(h.Root))
		}
	}
	if name := r.DefaultHandler; name != "" && !builtInHandler(name) {
		_, ok := r.Handlers[name]
		v.require(ok, "runtime.default_handler", "is %q, which [runtime.handlers.%s] does not define", name, name)
	}
}

func (v *validator) absolutePaths(key string, paths []string) {
	for _, path := range paths {
		v.check(key, absolute(path))
	}
}

func absolute(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%q is no absolute path", path)
	}
	return nil
}

// ownDirectory refuses what we must not fill and empty as we like.
func ownDirectory(path string) error {
	if err := absolute(path); err != nil {
		return err
	}
	switch clean := filepath.Clean(path); {
	case clean != path:
		return fmt.Errorf("is %q, want it written %q", path, clean)
	case strings.Count(clean, "/") < 2 && !strings.Contains(clean, "cri-node"):
		return fmt.Errorf("is %q, want a directory for cri-node alone", path)
	}
	return nil
}

// inside reports whether path is dir or below it.
func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func socketPath(path string) error {
	if err := absolute(path); err != nil {
		return err
	}
	if len(path) > maxSocketPath {
		return fmt.Errorf("%q is longer than the %d bytes a socket may have", path, maxSocketPath)
	}
	return nil
}

// cgroupRoot takes a cgroupfs path or a systemd slice, as kubelet names parents.
func cgroupRoot(name string) error {
	if strings.HasSuffix(name, ".slice") && !strings.Contains(name, "/") {
		return nil
	}
	if err := absolute(name); err != nil {
		return fmt.Errorf("is %q, want a cgroup path such as \"/cri-node\" or a systemd slice", name)
	}
	if filepath.Clean(name) != name || name == "/" {
		return fmt.Errorf("is %q, want a plain path below the root cgroup", name)
	}
	return nil
}

// interfaceName follows the kernel's dev_valid_name.
func interfaceName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxInterfaceName || strings.ContainsAny(name, "/: \t\n\v\f\r") {
		return fmt.Errorf("%q is no name for a network interface", name)
	}
	return nil
}

// adminAddress takes none, a socket, or an address only this machine reaches:
// what is served there has no authentication.
func adminAddress(address string) error {
	if address == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(address, unixScheme); ok {
		return socketPath(path)
	}
	if to, err := netip.ParseAddrPort(address); err != nil || !to.Addr().IsLoopback() {
		return fmt.Errorf("is %q, want unix:// and a path, or a loopback address such as \"127.0.0.1:9100\"", address)
	}
	return nil
}
