package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/cmd/cri-node/config"
	"github.com/cri-node/cri-node/cmd/cri-node/early"
	"github.com/cri-node/cri-node/pkg/cli"
)

func versionCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:          "version",
		Short:        "Print the version",
		Long:         "Print the version of this program; a template can also name that of the daemon, .Server.Version.",
		Example:      "  cri-node version\n  cri-node version --format '{{.Client.Version}} {{.Server.Version}}'",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" {
				return cli.WriteVersions(cmd, format, early.Version)
			}
			return early.WriteVersion(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print with a Go `template`, or json")
	return cmd
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:          "config",
		Short:        "Show and check the configuration",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(configDefaultCommand(), configCheckCommand(), configDumpCommand())
	return cmd
}

func configDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use:          "default",
		Short:        "Print the default configuration, with every key explained",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(cmd *cobra.Command, _ []string) error { return config.WriteDefault(cmd.OutOrStdout()) },
	}
}

func configCheckCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration",
		Long: "Check the configuration without using it. Each mistake is printed as\n" +
			"FILE:LINE: KEY: what is wrong, and the exit code is 1 if there is one.",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
	}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := flags.load(cmd)
		if err != nil {
			return fmt.Errorf("configuration:\n%w", err)
		}
		dir, err := executableDir()
		if err != nil {
			return err
		}
		_, name, err := c.ResolveHandlers(dir)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "configuration is fine; the default runtime handler is %s\n", name)
		return err
	}
	return cmd
}

func configDumpCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:          "dump",
		Short:        "Print the configuration in effect",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
	}
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := flags.load(cmd)
		if err != nil {
			return fmt.Errorf("configuration:\n%w", err)
		}
		return c.Write(cmd.OutOrStdout())
	}
	return cmd
}
