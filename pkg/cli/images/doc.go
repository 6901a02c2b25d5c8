// Package images has the verbs for images and registries: pull, push, images,
// rmi, tag, history, save, load, import, search, login and logout.
package images
