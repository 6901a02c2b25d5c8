package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// feature is one feature of Dockerfiles: what a build of them has below /out.
type feature struct {
	name       string
	dockerfile string
	context    map[string]string
	args       []string
	want       map[string]string
}

// The result of most is a stage that has /out alone, so that nothing else needs
// to be looked at.
func features() []feature {
	return slices.Concat(argFeatures(), stageFeatures(), copyFeatures(), runFeatures())
}

func argFeatures() []feature {
	return []feature{
		{"ARG before FROM and in a stage", "ARG V=1\nFROM BASE AS a\nARG V\nARG W=2\nRUN mkdir /out && echo $V $W > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--build-arg", "W=3"}, map[string]string{"f": "1 3\n"}},
		{"ARG ends with its stage", "FROM BASE AS a\nARG V=1\nRUN mkdir /out\nFROM a AS b\nRUN echo \"[$V]\" > /out/f\nFROM scratch\nCOPY --from=b /out /out", nil, nil, map[string]string{"f": "[1]\n"}},
		{"ARG of another stage is not there", "FROM BASE AS a\nARG V=1\nFROM BASE AS b\nRUN mkdir /out && echo \"[$V]\" > /out/f\nFROM scratch\nCOPY --from=b /out /out", nil, nil, map[string]string{"f": "[]\n"}},
		{"ENV goes before ARG", "FROM BASE AS a\nARG V=1\nENV V=2\nRUN mkdir /out && echo $V > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--build-arg", "V=3"}, map[string]string{"f": "2\n"}},
		{"variables with defaults", "FROM BASE AS a\nENV E=x\nENV F=${NONE:-d}${E:+y}\nRUN mkdir /out && echo $F > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, nil, map[string]string{"f": "dy\n"}},
		{"platform arguments", "FROM BASE AS a\nARG TARGETOS\nRUN mkdir /out && echo $TARGETOS > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, nil, map[string]string{"f": "linux\n"}},
	}
}

func stageFeatures() []feature {
	return []feature{
		{"stages that nobody needs are not built", "FROM BASE AS bad\nRUN false\nFROM scratch\nCOPY a /out/", map[string]string{"a": "1"}, nil, map[string]string{"a": "1"}},
		{"--target", "FROM scratch AS one\nCOPY a /out/\nFROM BASE AS two\nRUN false", map[string]string{"a": "1"}, []string{"--target", "one"}, map[string]string{"a": "1"}},
		{"COPY --from a number", "FROM BASE\nRUN mkdir /o && echo 1 > /o/f\nFROM scratch\nCOPY --from=0 /o /out", nil, nil, map[string]string{"f": "1\n"}},
		{"COPY --from an image", "FROM scratch\nCOPY --from=BASE /etc/masked /out/", nil, nil, map[string]string{"masked": "masked\n"}},
		{"FROM a stage", "FROM BASE AS a\nRUN mkdir /out && echo 1 > /out/f\nFROM a AS b\nRUN echo 2 >> /out/f\nFROM scratch\nCOPY --from=b /out /out", nil, nil, map[string]string{"f": "1\n2\n"}},
		{"FROM a named context", "FROM other AS o\nFROM scratch\nCOPY --from=o f /out/", map[string]string{"sub/f": "named"}, []string{"--build-context", "other=CONTEXT/sub"}, map[string]string{"f": "named"}},
		{"a named context instead of an image", "FROM nowhere.test/none AS a\nRUN mkdir /out && cat /etc/masked > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--build-context", "nowhere.test/none=docker-image://BASE"}, map[string]string{"f": "masked\n"}},
		{"--network none", "FROM BASE AS a\nRUN mkdir /out && ls /sys/class/net > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--network", "none"}, map[string]string{"f": "lo\n"}},
		{"RUN --network=none", "FROM BASE AS a\nRUN mkdir /out && ls /sys/class/net > /out/a\nRUN --network=none ls /sys/class/net > /out/b\nFROM scratch\nCOPY --from=a /out /out", nil, nil, map[string]string{"a": "eth0\nlo\n", "b": "lo\n"}},
		{"--add-host", "FROM BASE AS a\nRUN mkdir /out && grep one.test /etc/hosts | tr '\\t' ' ' > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--add-host", "one.test:192.0.2.7"}, map[string]string{"f": "192.0.2.7 one.test\n"}},
		{"--ulimit", "FROM BASE AS a\nRUN mkdir /out && ulimit -n > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--ulimit", "nofile=77:99"}, map[string]string{"f": "77\n"}},
		{"--shm-size", "FROM BASE AS a\nRUN mkdir /out && df -k /dev/shm | tail -1 | awk '{print $2}' > /out/f\nFROM scratch\nCOPY --from=a /out /out", nil, []string{"--shm-size", "2m"}, map[string]string{"f": "2048\n"}},
	}
}

func copyFeatures() []feature {
	abc := map[string]string{"a.txt": "a", "b.txt": "b", "c.md": "c", "d/e": "e", "d/f/g": "g"}
	stat := "\nRUN mkdir /o && cd /out && for f in $(find . | sort); do stat -c '%n %a %u:%g' $f; done > /o/f\nFROM scratch\nCOPY --from=a /o /out"
	return []feature{
		{"COPY of a directory is of its content", "FROM scratch\nCOPY d /out/", abc, nil, map[string]string{"e": "e", "f/": "", "f/g": "g"}},
		{"COPY with wildcards", "FROM scratch\nCOPY *.txt /out/", abc, nil, map[string]string{"a.txt": "a", "b.txt": "b"}},
		{"COPY to another name", "FROM scratch\nCOPY a.txt /out/x", abc, nil, map[string]string{"x": "a"}},
		{"COPY --exclude", "FROM scratch\nCOPY --exclude=*.txt --exclude=d/f . /out/", abc, nil, map[string]string{"Dockerfile": "FROM scratch\nCOPY --exclude=*.txt --exclude=d/f . /out/", "c.md": "c", "d/": "", "d/e": "e"}},
		{"COPY --parents", "FROM scratch\nCOPY --parents d/f/g a.txt /out/", abc, nil, map[string]string{"a.txt": "a", "d/": "", "d/f/": "", "d/f/g": "g"}},
		{"COPY --chown by number, --chmod", "FROM BASE AS a\nCOPY --chown=12:34 --chmod=640 a.txt /out/" + stat, abc, nil, map[string]string{"f": ". 640 12:34\n./a.txt 640 12:34\n"}},
		{"COPY --chown by name", "FROM BASE AS a\nRUN echo 'bob:x:77:78::/:/bin/sh' >> /etc/passwd; echo 'staff:x:79:' >> /etc/group\nCOPY --chown=bob a.txt /out/\nCOPY --chown=bob:staff b.txt /out/" + stat, abc, nil, map[string]string{"f": ". 755 77:78\n./a.txt 644 77:78\n./b.txt 644 77:79\n"}},
		{"COPY --chmod in letters", "FROM BASE AS a\nCOPY --chmod=u=rwx,go=rx a.txt /out/x" + stat, abc, nil, map[string]string{"f": ". 755 0:0\n./x 755 0:0\n"}},
		{"COPY --link hides nothing", "FROM BASE AS a\nRUN mkdir /out && echo old > /out/old\nCOPY --link a.txt /out/\nFROM scratch\nCOPY --from=a /out /out", abc, nil, map[string]string{"a.txt": "a", "old": "old\n"}},
		{"COPY follows links of the source only inside", "FROM scratch\nCOPY link /out/x", map[string]string{"link": "-> /etc/up", "etc/up": "inside"}, nil, map[string]string{"x": "inside"}},
		{"COPY keeps links in directories", "FROM scratch\nCOPY d /out", map[string]string{"d/l": "-> /etc/passwd"}, nil, map[string]string{"l": "-> /etc/passwd"}},
		{"COPY of heredocs", "FROM scratch\nCOPY <<one <<\"two\" /out/\n1\none\n$X\ntwo\nCOPY <<-EOF /out/three\n\ttab\nEOF", nil, nil, map[string]string{"one": "1\n", "two": "$X\n", "three": "tab\n"}},
		{".dockerignore", "FROM scratch\nCOPY . /out/", map[string]string{".dockerignore": "# no\n*.txt\n!b.txt\nd\nDockerfile\n.dockerignore", "a.txt": "a", "b.txt": "b", "d/e": "e"}, nil, map[string]string{"b.txt": "b"}},
		{"Dockerfile.dockerignore goes first", "FROM scratch\nCOPY . /out/", map[string]string{".dockerignore": "b.txt", "Dockerfile.dockerignore": "*\n!b.txt", "a.txt": "a", "b.txt": "b"}, nil, map[string]string{"b.txt": "b"}},
		{"WORKDIR", "FROM BASE AS a\nWORKDIR /out\nWORKDIR sub\nRUN pwd > f\nFROM scratch\nCOPY --from=a /out /out", nil, nil, map[string]string{"sub/": "", "sub/f": "/out/sub\n"}},
	}
}

func runFeatures() []feature {
	const end = "\nFROM scratch\nCOPY --from=a /out /out"
	return []feature{
		{"RUN in exec form", "FROM BASE AS a\nRUN [\"/bin/sh\", \"-c\", \"mkdir /out; echo $0 > /out/f\", \"zero\"]" + end, nil, nil, map[string]string{"f": "zero\n"}},
		{"RUN of heredocs", "FROM BASE AS a\nRUN <<EOF\nmkdir /out\necho 1 > /out/f\nEOF\nRUN cat <<X > /out/g\n2\nX" + end, nil, nil, map[string]string{"f": "1\n", "g": "2\n"}},
		{"RUN of a heredoc with #!", "FROM BASE AS a\nRUN <<EOF\n#!/bin/sh\nmkdir /out\necho $0 > /out/f\nEOF" + end, nil, nil, map[string]string{"f": "/dev/pipes/EOF\n"}},
		{"SHELL", "FROM BASE AS a\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN mkdir /out; false || true; echo $- > /out/f" + end, nil, nil, map[string]string{"f": "ce\n"}},
		{"USER", "FROM BASE AS a\nRUN mkdir -m 777 /out\nUSER 12:34\nRUN id -u > /out/f; id -g >> /out/f" + end, nil, nil, map[string]string{"f": "12\n34\n"}},
		{"--mount=type=bind", "FROM BASE AS a\nRUN --mount=target=/ctx mkdir /out && cp /ctx/a /out/f && ! touch /ctx/b" + end, map[string]string{"a": "1"}, nil, map[string]string{"f": "1"}},
		{"--mount=type=bind,rw is thrown away", "FROM BASE AS a\nRUN --mount=target=/ctx,rw mkdir /out && echo 2 > /ctx/a\nRUN --mount=target=/ctx cp /ctx/a /out/f" + end, map[string]string{"a": "1"}, nil, map[string]string{"f": "1"}},
		{"--mount=type=bind,from,source", "FROM BASE AS b\nRUN mkdir -p /x/y && echo 1 > /x/y/z\nFROM BASE AS a\nRUN --mount=from=b,source=/x/y,target=/m mkdir /out && cp /m/z /out/f" + end, nil, nil, map[string]string{"f": "1\n"}},
		{"--mount=type=tmpfs", "FROM BASE AS a\nRUN --mount=type=tmpfs,target=/t,size=1m mkdir /out && grep ' /t ' /proc/mounts | cut -d' ' -f3 > /out/f && touch /t/x" + end, nil, nil, map[string]string{"f": "tmpfs\n"}},
		{"--mount=type=cache", "FROM BASE AS a\nRUN --mount=type=cache,target=/c,id=e2e,sharing=locked echo 1 >> /c/f\nRUN --mount=type=cache,target=/d,id=e2e mkdir /out && cp /d/f /out/f" + end, nil, nil, map[string]string{"f": "1\n"}},
		{"--mount=type=cache with an owner", "FROM BASE AS a\nRUN --mount=type=cache,target=/c,uid=5,gid=6,mode=750,id=e2e-own mkdir /out && stat -c '%a %u:%g' /c > /out/f" + end, nil, nil, map[string]string{"f": "750 5:6\n"}},
		{"--mount=type=secret", "FROM BASE AS a\nRUN --mount=type=secret,id=s,uid=5,mode=0440 mkdir /out && stat -c '%a %u:%g' /run/secrets/s > /out/f && cp /run/secrets/s /out/s" + end, map[string]string{"s": "top"}, []string{"--secret", "id=s,src=CONTEXT/s"}, map[string]string{"f": "440 5:0\n", "s": "top"}},
		{"--mount=type=secret,env", "FROM BASE AS a\nRUN --mount=type=secret,id=s,env=S mkdir /out && echo $S > /out/f\nRUN echo \"[$S]\" >> /out/f" + end, map[string]string{"s": "top"}, []string{"--secret", "id=s,src=CONTEXT/s"}, map[string]string{"f": "top\n[]\n"}},
		{"a secret that may be missing", "FROM BASE AS a\nRUN --mount=type=secret,id=none mkdir /out && ls /run/secrets > /out/f || true" + end, nil, nil, map[string]string{"f": ""}},
		{"mount points leave nothing", "FROM BASE AS b\nRUN --mount=target=/ctx/deep --mount=type=tmpfs,target=/t --mount=type=secret,id=s true\nFROM BASE AS a\nRUN --mount=from=b,target=/b mkdir /out && cd /b && ls -d ctx t run etc/hosts etc/resolv.conf 2>/dev/null > /out/f; true" + end, map[string]string{"s": "x"}, []string{"--secret", "id=s,src=CONTEXT/s"}, map[string]string{"f": ""}},
	}
}

func TestBuildFeatures(t *testing.T) {
	for _, f := range features() {
		t.Run(f.name, func(t *testing.T) {
			b := onBuilds(t)
			b.write(f.context)
			b.dockerfile(f.dockerfile)
			args := slices.Clone(f.args)
			for i, a := range args {
				args[i] = strings.NewReplacer("CONTEXT", b.dir, "BASE", shared.image).Replace(a)
			}
			got := b.files("out", args...)
			want := maps.Clone(f.want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files of the result, want (-) and got (+):\n%s", diff)
			}
		})
	}
}

func TestBuildConfig(t *testing.T) {
	b := onBuilds(t)
	b.dockerfile(`FROM BASE
LABEL one=1 two="2 and more"
ENV A=b
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=7s --retries=4 CMD ["probe", "x"]
SHELL ["/bin/sh", "-ec"]
WORKDIR /srv
USER 7
ONBUILD RUN echo built
ENTRYPOINT ["/bin/probe"]
CMD ["a", "b"]
RUN true
RUN echo 1 > /tmp/f || true`)
	img := b.config("--label", "three=3")
	c := img.Config
	equal(b.env, "labels", len(c.Labels), 3)
	equal(b.env, "user", c.User, "7")
	equal(b.env, "directory", c.WorkingDir, "/srv")
	equal(b.env, "signal", c.StopSignal, "SIGQUIT")
	sameSet(b.env, "entrypoint", c.Entrypoint, "/bin/probe")
	sameSet(b.env, "command", c.Cmd, "a", "b")
	sameSet(b.env, "ports", slices.Collect(maps.Keys(c.ExposedPorts)), "80/tcp", "53/udp")
	sameSet(b.env, "volumes", slices.Collect(maps.Keys(c.Volumes)), "/data")
	sameSet(b.env, "shell", c.Shell, "/bin/sh", "-ec")
	sameSet(b.env, "triggers", c.OnBuild, "RUN echo built")
	if c.Healthcheck == nil || c.Healthcheck.Interval.Seconds() != 7 || c.Healthcheck.Retries != 4 {
		b.Errorf("health check: %+v", c.Healthcheck)
	}
	// Each layer has its line in the history, and what changed nothing has none.
	lines := 0
	for _, h := range img.History {
		if !h.EmptyLayer {
			lines++
		}
		if h.Created == nil {
			b.Errorf("line %q has no time", h.CreatedBy)
		}
		if strings.Contains(h.CreatedBy, "RUN") && strings.HasSuffix(h.CreatedBy, "true # buildkit") && !strings.Contains(h.CreatedBy, "echo") && !h.EmptyLayer {
			b.Errorf("line %q has a layer", h.CreatedBy)
		}
	}
	equal(b.env, "layers", len(img.RootFS.DiffIDs), lines)
}

func TestBuildOnBuild(t *testing.T) {
	b := onBuilds(t)
	b.dockerfile("FROM BASE AS base\nONBUILD COPY a /out/\nONBUILD RUN echo 1 >> /out/a\nFROM base AS b\nFROM scratch\nCOPY --from=b /out /out")
	b.write(map[string]string{"a": "0"})
	equal(b.env, "file", b.files("out")["a"], "01\n")
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		dockerfile, want string
		args             []string
	}{
		"no such image":         {"FROM BASEnone", "not found", nil},
		"unknown instruction":   {"FROM BASE\nRUMP x", "unknown instruction: RUMP", nil},
		"empty":                 {"\n", "no instructions", nil},
		"exit code":             {"FROM BASE\nRUN exit 7", "exit code: 7", nil},
		"no such file":          {"FROM scratch\nCOPY none /", "none", nil},
		"no such stage":         {"FROM scratch AS a\nCOPY Dockerfile /", "target stage \"b\" could not be found", []string{"--target", "b"}},
		"secret":                {"FROM BASE\nRUN --mount=type=secret,id=s,required=true true", "secret s: not found", nil},
		"agent":                 {"FROM BASE\nRUN --mount=type=ssh,required=true true", "no SSH agent", nil},
		"host network":          {"FROM BASE\nRUN --network=host true", "--allow network.host", nil},
		"insecure":              {"FROM BASE\nRUN --security=insecure true", "--allow security.insecure", nil},
		"checksum":              {"FROM scratch\nADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 http://REGISTRY/v2/ /", "digest mismatch", nil},
		"variables without end": {"FROM BASE\nENV A=0123456789\n" + strings.Repeat("ENV A=$A$A$A$A$A$A$A$A\n", 30), "variables grow", nil},
		"chown to nobody there": {"FROM BASE\nCOPY --chown=mallory Dockerfile /", "user \"mallory\"", nil},
		"a mount outside":       {"FROM BASE\nRUN --mount=from=BASE,source=/../../../../../../proc/kmsg,target=/m cat /m", "no such file", nil},
		"several platforms":     {"FROM BASE", "one at a time", []string{"--platform", "linux/amd64,linux/arm64"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onBuilds(t)
			b.dockerfile(strings.ReplaceAll(c.dockerfile, "REGISTRY", shared.registry.Addr()))
			b.fails(c.want, c.args...)
		})
	}
}
