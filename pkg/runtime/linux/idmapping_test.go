package linux

import "testing"

func TestIDMappings(t *testing.T) {
	m := &IDMappings{UIDs: []IDMap{{ContainerID: 0, HostID: 100000, Length: 10}, {ContainerID: 10, HostID: 500, Length: 1}}}
	for id, host := range map[uint32]uint32{0: 100000, 9: 100009, 10: 500} {
		if got, ok := m.HostUID(id); got != host || !ok {
			t.Errorf("HostUID(%d) = %d, %v", id, got, ok)
		}
		if got, ok := m.NamespaceUID(host); got != id || !ok {
			t.Errorf("NamespaceUID(%d) = %d, %v", host, got, ok)
		}
	}
	if _, ok := m.NamespaceUID(0); ok {
		t.Error("the host's root is mapped")
	}
	if _, ok := m.NamespaceGID(100000); ok {
		t.Error("a group is mapped")
	}
	if id, ok := (*IDMappings)(nil).NamespaceGID(7); id != 7 || !ok {
		t.Error("no namespace changes ids")
	}
}
