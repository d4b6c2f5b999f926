// Package image keeps container images: it pulls them from registries, loads them
// from archives and directories, takes those of go-containerregistry, stores
// their blobs in an OCI image layout and hands their layers to package layer.
//
// # Model
//
// A [Store] is a directory:
//
//	oci-layout          version of the layout
//	index.json          one descriptor for each name of each image
//	blobs/sha256/HEX    manifests, indexes, configs and layers, as they came
//	holds/HEX-HOLDER    image HEX is used by HOLDER (a container's id)
//	claims/RANDOM/      a pull, load, import or removal at work, and its unfinished files
//	fetching/HEX        locked by whoever brings blob HEX; beside it, what has come of it
//	lock                serializes changes of index.json, holds and claims
//
// The first three are an image layout as the OCI image specification has it,
// so that `skopeo inspect oci:DIR:docker.io/library/alpine:latest` works: each
// descriptor's org.opencontainers.image.ref.name is the full reference, and it
// describes the manifest of the one platform that was chosen. A manifest of
// Docker's type is stored a second time with the media types of OCI, because
// readers of layouts refuse Docker's; config and layers are the same blobs. What
// there was, from the index down, is kept byte for byte and listed in an
// annotation of the descriptor. An image of a docker-archive comes without a
// manifest and gets one, of OCI's type, over its config and its layers as they
// are there, most often plain tars. A blob that is a layer's tar is a hard link of
// that where package layer keeps it: whoever writes to blobs, in place of
// replacing them, harms what containers see.
//
// Layers that can be fetched in pieces, eStargz and zstd:chunked, are fetched whole
// and are plain layers: what eStargz has as files in the tar (stargz.index.json,
// .prefetch.landmark, .no.prefetch.landmark) a container sees, as it does when
// containerd or Docker unpack them; the frames of zstd:chunked nobody sees.
//
// An image's ID is the digest of its config, its Digest what its name named: an
// index or a manifest. Names follow Docker: "alpine" is
// docker.io/library/alpine:latest. When a pull, a load or an import moves a tag,
// the image that had it keeps the name repository@digest. An image may come
// without a name; it is found by its ID.
//
// Descriptors that another program added are kept, with their blobs, and not
// listed: only what comes through a [Store] has its layers where they can be used.
//
// # Trust
//
// Nothing that a registry or an archive says is believed: every blob is checked
// against its digest and size before it has a name, documents are bounded in
// size, depth and number, and one that two parsers could read as different things
// is refused (CVE-2021-41190), as is an archive that has two files of one name.
// No name in an archive is ever looked up on the host, and of a directory only
// regular files are opened, below its descriptor.
//
// The scheme is chosen before the first byte is sent and never changes: https,
// unless [PullOptions.PlainHTTP] is set or the registry is a literal loopback
// address or "localhost". Credentials go to the registry they are kept for and to
// the token server which that registry itself names, and nowhere that a redirect
// leads (CVE-2020-15157).
//
// # Concurrency and crashes
//
// All methods may be called concurrently, also from several stores and programs
// on one directory; readers take no lock. A layer that several pulls, loads and
// imports want at once is brought by one of them. The others wait, reporting how
// far that one is; should it fail, be cancelled or be killed, the next one fetches
// the rest. A program that is stopped keeps what it has begun, and others wait for
// it as long as their contexts let them.
//
// A blob or a layer is there whole or not
// at all, and an image is listed only when all it needs is on the disk, synced.
// What a killed program leaves is a claim whose lock is free: the next [Open]
// removes its unfinished files and all it had fetched that no image needs. A
// hold outlives its program on purpose: whoever sweeps dead containers calls
// [Store.Release].
//
// No privileges are needed beyond writing to the directory, and every system on
// which package layer compiles will do.
package image
