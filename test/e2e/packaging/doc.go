// Package packaging tests what is in the folder packaging: that install.sh puts
// everything where it belongs and takes it away again, that systemd understands the
// units, and that kind, whose own code it calls, can load images into a node.
package packaging
