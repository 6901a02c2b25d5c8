package compose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/pflag"
)

// source says which project is meant.
type source struct {
	files, envFiles, profiles []string
	name, directory           string
}

func (s *source) addFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&s.files, "file", "f", nil, "Compose `file` (default compose.yaml, here or above)")
	f.StringVarP(&s.name, "project-name", "p", "", "`name` of the project (default that of the file or its directory)")
	f.StringArrayVar(&s.profiles, "profile", nil, "`profile` to enable")
	f.StringArrayVar(&s.envFiles, "env-file", nil, "`file` of variables instead of .env")
	f.StringVar(&s.directory, "project-directory", "", "`directory` that relative paths are relative to (default that of the file)")
}

// load reads the project. Variables come from the environment, then the env files.
func (s *source) load(ctx context.Context) (*types.Project, error) {
	options, err := cli.NewProjectOptions(s.files,
		cli.WithWorkingDirectory(s.directory),
		cli.WithOsEnv,
		cli.WithEnvFiles(s.envFiles...),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		cli.WithName(s.name),
		cli.WithDefaultProfiles(s.profiles...),
	)
	if err != nil {
		return nil, fmt.Errorf("find the Compose file: %w", err)
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileNames(options.ConfigPaths), plain(err))
	}
	return project, nil
}

// fileNames are files as somebody calls them who stands beside them.
func fileNames(paths []string) string {
	var names []string
	here, err := os.Getwd()
	for _, path := range paths {
		if relative, e := filepath.Rel(here, path); err == nil && e == nil && !strings.HasPrefix(relative, "..") {
			path = relative
		}
		names = append(names, path)
	}
	return strings.Join(names, ", ")
}

// falseSchema is how the checker of Compose files says that a key must not be
// there.
var falseSchema = regexp.MustCompile(`^(?:validating \S+: )?(\S+) false schema$`)

// plain puts the errors of the loader in words.
func plain(err error) error {
	text := err.Error()
	if m := falseSchema.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s: there is no such key", m[1])
	}
	if rest, ok := strings.CutPrefix(text, "validating "); ok {
		_, text, _ = strings.Cut(rest, ": ")
		text = strings.TrimSpace(text)
	}
	if before, after, ok := strings.Cut(text, "decoding failed due to the following error(s):"); ok {
		return errors.New(before + strings.Join(strings.Fields(after), " "))
	}
	return errors.New(strings.TrimSuffix(text, ": invalid compose project"))
}

// projectName is the name alone, also where there is no file any more.
func (s *source) projectName(ctx context.Context) (string, *types.Project, error) {
	project, err := s.load(ctx)
	if err == nil {
		return project.Name, project, nil
	}
	if len(s.files) > 0 {
		return "", nil, err
	}
	for _, name := range []string{s.name, os.Getenv("COMPOSE_PROJECT_NAME")} {
		if name != "" {
			return name, nil, nil
		}
	}
	return "", nil, err
}
