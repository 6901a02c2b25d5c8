package compose

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// unsupported refuses what would silently not be had.
func unsupported(s *types.ServiceConfig) error {
	switch {
	case s.Provider != nil:
		return errors.New("provider: services that are no containers are not supported")
	case len(s.Gpus) > 0:
		return errors.New("gpus: use devices with the name of a CDI device")
	case s.CredentialSpec != nil:
		return errors.New("credential_spec is for Windows")
	case len(s.VolumesFrom) > 0:
		return errors.New("volumes_from is not supported: name the volumes in both services")
	case s.UseAPISocket:
		return errors.New("use_api_socket is not supported")
	}
	return nil
}

// known are the keys of a service that mean something here, or nothing to a
// container (attach, develop, extends, profiles ...).
var known = strings.Fields(`annotations attach build cap_add cap_drop cgroup_parent command configs container_name cpu_period cpu_quota
cpu_shares cpus cpuset depends_on deploy develop devices dns dns_opt dns_search domainname entrypoint env_file environment expose extends
extra_hosts group_add healthcheck hostname image init ipc label_file labels mem_limit mem_reservation memswap_limit name network_mode
networks oom_score_adj pid pids_limit platform ports post_start privileged profiles pull_policy read_only restart runtime scale secrets
security_opt shm_size stdin_open stop_grace_period stop_signal sysctls tmpfs tty ulimits user userns_mode uts volumes working_dir`)

// leftOut says what of a service is left out, in words.
func leftOut(p *types.Project, s *types.ServiceConfig) []string {
	keys := map[string]json.RawMessage{}
	text, err := json.Marshal(s)
	if err != nil || json.Unmarshal(text, &keys) != nil {
		return nil // whoever hashes it says so
	}
	var all, warnings []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(known, key) {
			all = append(all, key)
		}
	}
	if len(all) > 0 {
		warnings = append(warnings, "not supported and left out: "+strings.Join(all, ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(s.Networks)) {
		if n := s.Networks[key]; n != nil && (n.Ipv4Address != "" || n.Ipv6Address != "" || n.MacAddress != "") {
			warnings = append(warnings, fmt.Sprintf("network %s: an address of one's own is not supported and left out", key))
		}
		if p.Networks[key].Internal {
			warnings = append(warnings, fmt.Sprintf("network %s: internal is not supported: the service reaches what the machine reaches", key))
		}
	}
	return warnings
}
