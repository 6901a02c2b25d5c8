package images

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/credentials"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// searchRow is what search and its templates show.
type searchRow struct{ Name, Description, StarCount, IsOfficial string }

func searchCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	var limit uint32
	cmd := &cobra.Command{
		Use:   "search [OPTIONS] TERM",
		Short: "Find images in a registry",
		Long: "Find repositories by a part of their name: on Docker Hub, or in the catalogue of another registry where it\n" +
			"shows one (REGISTRY/TERM; REGISTRY/ lists all).",
		Example:           "  cri-node search nginx\n  cri-node search registry.example.org/team\n  cri-node search registry.example.org/",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			auth, err := authOf(args[0])
			if err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Images.Search(ctx, &nodev1.SearchRequest{Term: args[0], Auth: auth, Limit: limit})
				if err != nil {
					return err
				}
				l := output.List[searchRow]{Key: "Name", Raw: append([]*nodev1.SearchResponse_Result{}, r.GetResults()...), Columns: []output.Column{
					{Field: "Name", Header: "NAME"}, {Field: "Description", Header: "DESCRIPTION"}, {Field: "StarCount", Header: "STARS"}, {Field: "IsOfficial", Header: "OFFICIAL"},
				}}
				for _, x := range r.GetResults() {
					row := searchRow{Name: x.GetName(), Description: x.GetDescription(), StarCount: strconv.FormatInt(x.GetStars(), 10)}
					if !o.NoTrunc {
						row.Description = output.Ellipsis(row.Description, 45)
					}
					if x.GetOfficial() {
						row.IsOfficial = "[OK]"
					}
					l.Rows = append(l.Rows, row)
				}
				return l.Print(cmd.OutOrStdout(), o)
			})
		},
	}
	f := cmd.Flags()
	o.AddFlags(f)
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "print descriptions in full")
	f.Uint32Var(&limit, "limit", 25, "at most so `many` results")
	return cmd
}

func loginCommand(flags *client.Flags) *cobra.Command {
	var user, password string
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Keep credentials for a registry",
		Long: "Ask a registry, Docker Hub where none is named, whether it takes a user name and password, and keep them in\n" +
			"config.json below $DOCKER_CONFIG or ~/.docker, where docker and others look for them too.",
		Example:           "  cri-node login registry.example.org\n  cri-node login -u ada --password-stdin registry.example.org < token",
		Args:              argument.Between(0, 1),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, args []string) error {
			host := credentials.Hub
			if len(args) > 0 {
				host = credentials.Host(args[0])
			}
			if fromStdin && user == "" {
				return errors.New("--password-stdin needs --username")
			}
			if fromStdin && password != "" {
				return errors.New("--password and --password-stdin exclude each other")
			}
			if password != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
			}
			if err := ask(cmd, host, &user, &password, fromStdin); err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Images.Login(ctx, &nodev1.LoginRequest{Registry: host, Auth: &runtimeapi.AuthConfig{Username: user, Password: password}})
				if err != nil {
					return err
				}
				path, err := credentials.Save(host, user, password, r.GetIdentityToken())
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "Your credentials are stored unencrypted in %s\n", path)
				fmt.Fprintln(cmd.OutOrStdout(), "Login Succeeded")
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&user, "username", "u", "", "user `name`")
	f.StringVarP(&password, "password", "p", "", "`password`, or a token for one")
	f.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

// ask fills in what was not given: from standard input, or a person at it.
func ask(cmd *cobra.Command, host string, user, password *string, fromStdin bool) error {
	in := cmd.InOrStdin()
	if fromStdin {
		b, err := io.ReadAll(io.LimitReader(in, 64<<10))
		*password = strings.TrimRight(string(b), "\r\n")
		if err == nil && *password == "" {
			err = errors.New("standard input has no password")
		}
		return err
	}
	if *user != "" && *password != "" {
		return nil
	}
	if !terminal.Is(in) {
		return errors.New("standard input is no terminal to ask at: use --username and --password-stdin")
	}
	lines := bufio.NewReader(in)
	if *user == "" {
		fmt.Fprintf(cmd.OutOrStdout(), "Username for %s: ", host)
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if *user = strings.TrimSpace(line); *user == "" {
			return errors.New("a user name is needed")
		}
	}
	if *password != "" {
		return nil
	}
	fmt.Fprint(cmd.OutOrStdout(), "Password: ")
	restore, err := terminal.HideInput(in.(*os.File)) //nolint:forcetypeassert // a terminal is a file
	if err != nil {
		return err
	}
	line, err := lines.ReadString('\n')
	fmt.Fprintln(cmd.OutOrStdout())
	if err := errors.Join(err, restore()); err != nil {
		return err
	}
	if *password = strings.TrimRight(line, "\r\n"); *password == "" {
		return errors.New("a password is needed")
	}
	return nil
}

func logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "logout [SERVER]",
		Short:             "Forget the credentials for a registry",
		Example:           "  cri-node logout registry.example.org",
		Args:              argument.Between(0, 1),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, args []string) error {
			host := credentials.Hub
			if len(args) > 0 {
				host = credentials.Host(args[0])
			}
			found, err := credentials.Erase(host)
			if err != nil {
				return err
			}
			if !found {
				fmt.Fprintf(cmd.OutOrStdout(), "Not logged in to %s\n", host)
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Removing login credentials for %s\n", host)
			return nil
		},
	}
}
