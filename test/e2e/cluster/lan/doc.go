// Package lan puts more machines onto the network of a cage: each is a network
// namespace with a link to the bridge (cage.LAN), an address there and, as a
// cluster without a network of its own would have it, routes to the pods of the
// other machines.
//
//	Join ─► connected ─► Cut ─► cut off ─► Mend ─► connected ─► Leave
//
// Processes, mounts and cgroups are those of the cage.
package lan
