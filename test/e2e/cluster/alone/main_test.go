package alone

import (
	"os"
	"testing"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// shared is the kubelet of all tests. TestMain makes it.
var shared suite.Cluster

func TestMain(m *testing.M) { os.Exit(suite.Main(m, &shared, suite.Options{Alone: true})) }
