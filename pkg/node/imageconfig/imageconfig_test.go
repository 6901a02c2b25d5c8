package imageconfig

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestChange(t *testing.T) {
	for line, want := range map[string]string{
		`CMD ["sh", "-c", "x y"]`:         `"Cmd":["sh","-c","x y"]`,
		`CMD x y`:                         `"Cmd":["/bin/sh","-c","x y"]`,
		`ENTRYPOINT ["a"]`:                `"Entrypoint":["a"]`,
		`ENV A=1 B="2 3"`:                 `"Env":["OLD=1","A=1","B=2 3"]`,
		`ENV OLD=2`:                       `"Env":["OLD=2"]`,
		`EXPOSE 80 53/udp 8000-8001`:      `"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{}}`,
		`LABEL a=b`:                       `"Labels":{"a":"b"}`,
		`USER 7:8`:                        `"User":"7:8"`,
		`VOLUME /data`:                    `"Volumes":{"/data":{}}`,
		`WORKDIR /x`:                      `"WorkingDir":"/x"`,
		`STOPSIGNAL SIGINT`:               `"StopSignal":"SIGINT"`,
		`ONBUILD RUN x`:                   `"OnBuild":["RUN x"]`,
		`HEALTHCHECK --interval=2s CMD x`: `"Test":["CMD-SHELL","x"],"Interval":2000000000`,
		"SHELL [\"/bin/bash\", \"-c\"]":   `"Shell":["/bin/bash","-c"]`,
		"CMD [\"one\"]\nCMD [\"two\"]":    `"Cmd":["two"]`,
	} {
		t.Run(line, func(t *testing.T) {
			c := New(ocispec.Platform{OS: "linux", Architecture: "amd64"})
			c.Config.Env = []string{"OLD=1"}
			if err := Change(c, []string{line}); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(c)
			if err != nil || !strings.Contains(string(b), want) {
				t.Errorf("config is %s, want %s, %v", b, want, err)
			}
		})
	}
	for _, line := range []string{"RUN x", "COPY a b", "FROM x", "nonsense", "EXPOSE x", "", "EXPOSE 9-1"} {
		if err := Change(New(ocispec.Platform{}), []string{line}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestAddLayer(t *testing.T) {
	c, err := Parse([]byte(`{"os":"linux","config":{"Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":["sha256:a"]},"history":[{"created_by":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	AddLayer(c, digest.FromString("l"), time.Unix(9, 0), ocispec.History{CreatedBy: "sh"})
	if len(c.RootFS.DiffIDs) != 2 || len(c.History) != 2 || c.History[1].CreatedBy != "sh" || !c.Created.Equal(time.Unix(9, 0)) || c.Config.Healthcheck == nil {
		t.Errorf("config is %+v", c)
	}
}

// TestExposeManyPorts takes no time that grows with the square of them.
func TestExposeManyPorts(t *testing.T) {
	c := &Config{}
	if err := Change(c, []string{"EXPOSE 1-65535/udp"}); err != nil || len(c.Config.ExposedPorts) != 65535 {
		t.Errorf("%d, %v", len(c.Config.ExposedPorts), err)
	}
	for _, bad := range []string{"EXPOSE 80abc", "EXPOSE 9-8", "EXPOSE 70000"} {
		if err := Change(c, []string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
