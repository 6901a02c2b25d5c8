package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/cmd/cri-node/early"
	"github.com/cri-node/cri-node/cmd/cri-node/notify"
	"github.com/cri-node/cri-node/pkg/cli"
	"github.com/cri-node/cri-node/pkg/cli/client"
)

// serveOptions is what serve gets from the command line.
type serveOptions struct {
	cfg *config.Config
	// reload gets a value for each SIGHUP.
	reload <-chan os.Signal
	// load reads the configuration again, with the same file and flags.
	load func() (*config.Config, error)
	// setLogLevel changes the level of all loggers at once.
	setLogLevel func(level int) error
	notifier    *notify.Notifier
	version     string
}

func main() {
	// `cri-node monitor` does not get here: package early has run it.
	exit(rootCommand().Execute())
}

// exit ends the process, with 0 where err is nil, and else with 1 unless err
// wishes for another code.
func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	code := 1
	if wish := new(client.ExitError); errors.As(err, &wish) {
		if code = wish.Code; wish.Err == nil {
			os.Exit(code)
		}
	}
	fmt.Fprintf(os.Stderr, "cri-node: %v\n", err)
	os.Exit(code)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "cri-node COMMAND",
		Short: "cri-node runs containers, those of a Kubernetes node and those of people",
		Long: "cri-node serves the Container Runtime Interface to kubelet and crictl: it pulls images,\n" +
			"runs pods and their containers, and keeps their logs. `cri-node serve` is the daemon; the\n" +
			"other commands are for people, talk to it, and work as docker's do.",
		Example:       "  cri-node run -it --rm ubuntu\n  cri-node ps -a\n  cri-node logs -f web",
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true, // main prints them
	}
	var version strings.Builder
	_ = early.WriteVersion(&version) // to memory
	root.Version = version.String()
	root.SetVersionTemplate("{{.Version}}")
	root.AddCommand(serveCommand(), configCommand(), versionCommand())
	cli.AddCommands(root)
	return root
}

// configFlags are the flags that say where the configuration comes from.
type configFlags struct {
	file, root, state, listen string
	logLevel                  int
}

func (f *configFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "config", "", "configuration `file` (default "+config.DefaultPath+", where it exists)")
	flags.StringVar(&f.root, "root", "", "`directory` for what survives a reboot")
	flags.StringVar(&f.state, "state", "", "`directory` for what ends with the boot")
	flags.StringVar(&f.listen, "listen", "", "`address` to serve on, such as unix:///run/cri-node/cri.sock")
	flags.IntVar(&f.logLevel, "log-level", 0, "how much to log, 0 to 10")
}

// load reads the configuration with the flags of cmd laid over it.
func (f *configFlags) load(cmd *cobra.Command) (*config.Config, error) {
	var overrides []config.Override
	for _, o := range []config.Override{
		{Source: "root", Key: "root", Value: f.root},
		{Source: "state", Key: "state", Value: f.state},
		{Source: "listen", Key: "server.listen", Value: f.listen},
		{Source: "log-level", Key: "log.level", Value: f.logLevel},
	} {
		if cmd.Flags().Changed(o.Source) {
			o.Source = "--" + o.Source
			overrides = append(overrides, o)
		}
	}
	return config.Load(f.file, overrides...)
}

func serveCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:           "serve",
		Short:         "Run the daemon",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runServe(func() (*config.Config, error) { return flags.load(cmd) })
	}
	return cmd
}

// runServe sets up what belongs to the whole process and hands over to serve.
func runServe(load func() (*config.Config, error)) error {
	cfg, err := load()
	if err != nil {
		return fmt.Errorf("configuration:\n%w", err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("serve: %w: cri-node must run as root", os.ErrPermission)
	}
	logger, setLevel := newLogger(os.Stderr, cfg.Log)
	defer klog.Flush()
	notifier, err := notify.New()
	if err != nil {
		logger.Error(err, "Service manager will not be told about this daemon")
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	// From the first signal on the default action is back: a second one ends
	// the process at once. Containers and their monitor go on either way.
	context.AfterFunc(ctx, stop)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)
	// A reader of our log that goes away must not take the daemon with it. To
	// catch SIGPIPE, unlike to ignore it, is not inherited by children.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGPIPE)
	defer signal.Stop(broken)

	return serve(klog.NewContext(ctx, logger), serveOptions{
		cfg:         cfg,
		reload:      reload,
		load:        load,
		setLogLevel: setLevel,
		notifier:    notifier,
		version:     early.Version,
	})
}

// executableDir is the directory of this program, where its OCI runtimes and CNI
// plugins may be as well.
func executableDir() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own executable: %w", err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("find own executable: %w", err)
	}
	return filepath.Dir(path), nil
}
