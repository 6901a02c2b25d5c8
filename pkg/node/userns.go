package node

import (
	"math/rand/v2"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// The ids of the machine that containers get whose creators leave the choice to
// the daemon: blocks above those that kubelet and subuid(5) give away.
const (
	firstID   = 1 << 30
	idsLength = 1 << 16
	idBlocks  = 1 << 14
)

// wantsIDs: a user namespace is asked for, and no ids are.
func wantsIDs(u *runtimeapi.UserNamespace) bool {
	return u.GetMode() == runtimeapi.NamespaceMode_POD && u != nil && len(u.GetUids()) == 0 && len(u.GetGids()) == 0
}

// giveIDs chooses ids that no other pod has. Two calls at a time begin to look at
// different places.
func (s *Server) giveIDs(u *runtimeapi.UserNamespace) {
	var taken []linux.IDMap
	for _, sb := range s.config.Sandboxes.List() {
		if ids := sb.Status().Params.UserNS; ids != nil {
			taken = append(taken, ids.UIDs...)
		}
	}
	block := rand.Uint32N(idBlocks) //nolint:gosec // it is no secret
	for range idBlocks {
		first := firstID + block*idsLength
		if !slices.ContainsFunc(taken, func(m linux.IDMap) bool { return m.HostID < first+idsLength && first < m.HostID+m.Length }) {
			break
		}
		block = (block + 1) % idBlocks
	}
	ids := []*runtimeapi.IDMapping{{HostId: firstID + block*idsLength, Length: idsLength}}
	u.Uids, u.Gids = ids, ids
}
