package config

import (
	_ "embed"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Config is the whole configuration. The keys are documented in default.toml;
// the comments here say only what a reader of the code needs besides.
type Config struct {
	Root    string  `toml:"root"`
	State   string  `toml:"state"`
	Server  Server  `toml:"server"`
	Log     Log     `toml:"log"`
	Image   Image   `toml:"image"`
	Network Network `toml:"network"`
	Runtime Runtime `toml:"runtime"`

	Streaming Streaming `toml:"streaming"`

	NRI NRI `toml:"nri"`

	Admin Admin `toml:"admin"`

	Tracing    Tracing    `toml:"tracing"`
	Checkpoint Checkpoint `toml:"checkpoint"`
	Build      Build      `toml:"build"`
	People     People     `toml:"people"`

	// origins tells who set a key last, by its dotted name. A key that is
	// not in it has its default.
	origins map[string]origin
}

// Server is the section about the CRI socket.
type Server struct {
	// Listen is "unix://" and an absolute path.
	Listen    string `toml:"listen"`
	SocketGID int    `toml:"socket_gid"`
	MaxRecv   Size   `toml:"max_recv"`
}

// Log is the section about the daemon's own log.
type Log struct {
	Level  int    `toml:"level"`
	Format string `toml:"format"` // FormatText or FormatJSON
}

// The values of Log.Format.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Image is the section about registries and the image store.
type Image struct {
	CertsDirs         []string `toml:"certs_dirs"`
	AuthFiles         []string `toml:"auth_files"`
	TrustedRealms     []string `toml:"trusted_realms"`
	MaxParallelLayers int      `toml:"max_parallel_layers"`
	ProgressTimeout   Duration `toml:"progress_timeout"`
	Pinned            []string `toml:"pinned"`
	KeepCompressed    bool     `toml:"keep_compressed"`

	Signatures []Signature `toml:"signatures"`
}

// Network is the section about CNI.
type Network struct {
	ConfDir        string         `toml:"conf_dir"`
	ConfTemplate   string         `toml:"conf_template"`
	PluginDirs     []string       `toml:"plugin_dirs"`
	InProcess      bool           `toml:"in_process"`
	Default        bool           `toml:"default"`
	DefaultBridge  string         `toml:"default_bridge"`
	DefaultSubnets []netip.Prefix `toml:"default_subnets"`
	DataDir        string         `toml:"data_dir"`
}

// Runtime is the section about containers and OCI runtimes.
type Runtime struct {
	DefaultHandler      string             `toml:"default_handler"`
	CgroupDriver        string             `toml:"cgroup_driver"` // one of the Cgroup constants
	CgroupRoot          string             `toml:"cgroup_root"`
	SeccompDefault      bool               `toml:"seccomp_default"`
	DefaultCapabilities []string           `toml:"default_capabilities"` // in full: "CAP_CHOWN"
	PidsLimit           int64              `toml:"pids_limit"`
	DefaultEnv          []string           `toml:"default_env"`
	MaxLogLine          Size               `toml:"max_log_line"`
	CreateTimeout       Duration           `toml:"create_timeout"`
	DeviceOwnership     bool               `toml:"device_ownership"`
	CDIDirs             []string           `toml:"cdi_dirs"`
	HooksDirs           []string           `toml:"hooks_dirs"`
	DefaultSysctls      map[string]string  `toml:"default_sysctls"`
	Handlers            map[string]Handler `toml:"handlers"`
}

// The values of Runtime.CgroupDriver.
const (
	CgroupAuto     = "auto"
	CgroupSystemd  = "systemd"
	CgroupCgroupfs = "cgroupfs"
)

// Handler is one OCI runtime. As written in a file its fields may be empty;
// ResolveHandlers fills in Path.
type Handler struct {
	Path string `toml:"path"`
	// Root is empty where cri-node chooses the runtime's state directory.
	Root string `toml:"root"`
	// PrivilegedWithoutHostDevices: see spec.Defaults.
	PrivilegedWithoutHostDevices bool `toml:"privileged_without_host_devices"`
}

// Streaming is the section about the HTTP server of exec, attach and
// port-forward.
type Streaming struct {
	Address     string   `toml:"address"`
	Port        uint16   `toml:"port"`
	IdleTimeout Duration `toml:"idle_timeout"`
	// All of these are absolute paths or empty.
	TLSCertFile     string `toml:"tls_cert_file"`
	TLSKeyFile      string `toml:"tls_key_file"`
	TLSClientCAFile string `toml:"tls_client_ca_file"`
}

// Build is the section about builds of images.
type Build struct {
	CacheSize Size `toml:"cache_size"`
}

// People is the section about containers that people make.
type People struct {
	LogMaxSize  Size `toml:"log_max_size"` // 0 is no bound
	LogMaxFiles int  `toml:"log_max_files"`
}

// Checkpoint is the section about checkpoints of containers.
type Checkpoint struct {
	Enable  bool   `toml:"enable"`
	KeyFile string `toml:"key_file"` // empty where cri-node chooses one
}

// Admin is the section for people and tools that look into the daemon itself.
type Admin struct {
	// Address is "unix://" and an absolute path, a loopback address with a port,
	// or empty.
	Address string `toml:"address"`
}

// IsSet reports whether a file or a flag has set a key, by its dotted name.
func (c *Config) IsSet(key string) bool {
	_, ok := c.origins[key]
	return ok
}

//go:embed default.toml
var defaultFile []byte

// Default returns the configuration of a machine without any file.
func Default() *Config {
	c := &Config{}
	if err := c.merge("default.toml", defaultFile); err != nil {
		// The file is part of the program, and a test loads it.
		panic(fmt.Sprintf("embedded configuration: %v", err))
	}
	c.origins = nil
	return c
}

// WriteDefault prints the documented default file.
func WriteDefault(w io.Writer) error {
	_, err := w.Write(defaultFile)
	return err
}

// Duration is a time.Duration that is written as "30s". It is a struct, because
// the decoder would take a bare number for an integer type as it is: as
// nanoseconds.
type Duration struct {
	time.Duration `toml:"-"`
}

// UnmarshalText parses "30s".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration such as \"30s\"", text)
	}
	d.Duration = v
	return nil
}

// MarshalText prints "30s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
