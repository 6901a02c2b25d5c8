package compose

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/inject"
)

// A secret or config is copied into the container before it starts, as docker
// compose does where it cannot mount a file: its content may come from a variable
// or the Compose file itself, and has to be there after the command is over.

// files are the secrets and configs of a service.
func files(p *types.Project, s *types.ServiceConfig) ([]inject.File, error) {
	var all []inject.File
	for _, secret := range s.Secrets {
		from, ok := p.Secrets[secret.Source]
		if !ok {
			return nil, fmt.Errorf("secret %s is not defined", secret.Source)
		}
		target := cmp.Or(secret.Target, secret.Source)
		if !path.IsAbs(target) {
			target = path.Join("/run/secrets", target)
		}
		f, err := content(p, types.FileObjectConfig(from), types.FileReferenceConfig(secret), target)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", secret.Source, err)
		}
		all = append(all, f)
	}
	for _, config := range s.Configs {
		from, ok := p.Configs[config.Source]
		if !ok {
			return nil, fmt.Errorf("config %s is not defined", config.Source)
		}
		target := cmp.Or(config.Target, "/"+config.Source)
		f, err := content(p, types.FileObjectConfig(from), types.FileReferenceConfig(config), target)
		if err != nil {
			return nil, fmt.Errorf("config %s: %w", config.Source, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// content reads what a secret or config is.
func content(p *types.Project, from types.FileObjectConfig, to types.FileReferenceConfig, target string) (f inject.File, err error) {
	f = inject.File{Path: path.Clean(target), Mode: 0o444}
	if to.Mode != nil {
		f.Mode = int64(*to.Mode)
	}
	for _, id := range []struct {
		name, text string
		to         *int
	}{{"uid", to.UID, &f.UID}, {"gid", to.GID, &f.GID}} {
		if id.text == "" {
			continue
		}
		if *id.to, err = strconv.Atoi(id.text); err != nil {
			return inject.File{}, fmt.Errorf("%s %q is no number", id.name, id.text)
		}
	}
	switch {
	case bool(from.External):
		return inject.File{}, errors.New("external ones are not supported: give it a file")
	case from.File != "":
		f.Content, err = os.ReadFile(from.File)
	case from.Environment != "":
		value, ok := p.Environment[from.Environment]
		if !ok {
			return inject.File{}, fmt.Errorf("variable %s is not set", from.Environment)
		}
		f.Content = []byte(value)
	default:
		f.Content = []byte(from.Content)
	}
	return f, err
}
