#include "files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <unordered_map>

#include "failure.h"
#include "windows_text.h"

namespace genin {
namespace {

constexpr uint64_t kDirectoryLimit = 64u << 20;  // of a zip's directory
constexpr std::string_view kSuffix = ".genin";

[[noreturn]] void fail(const std::string &where, const std::string &what) { throw Failure(GENIN_E_BUNDLE, where + ": " + what); }

std::FILE *open_file(const std::string &path) {
#if defined(_WIN32)
    return _wfopen(widen(path).c_str(), L"rb");
#else
    return std::fopen(path.c_str(), "rb");
#endif
}

// Where a path really leads, without links; empty where it leads nowhere.
std::string real_path(const std::string &path) {
#if defined(_WIN32)
    const HANDLE file = CreateFileW(widen(path).c_str(), 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr, OPEN_EXISTING,
                                    FILE_FLAG_BACKUP_SEMANTICS, nullptr);  // of folders, too
    if (file == INVALID_HANDLE_VALUE) return {};
    std::wstring found(GetFinalPathNameByHandleW(file, nullptr, 0, FILE_NAME_NORMALIZED), L'\0');
    found.resize(GetFinalPathNameByHandleW(file, found.data(), static_cast<DWORD>(found.size()), FILE_NAME_NORMALIZED));
    CloseHandle(file);
    std::string plain = narrow(found);
    std::replace(plain.begin(), plain.end(), '\\', '/');
    return plain;
#else
    const std::unique_ptr<char, decltype(&std::free)> found(realpath(path.c_str(), nullptr), &std::free);
    return found ? std::string(found.get()) : std::string();
#endif
}

// Without the last part.
std::string parent_of(const std::string &path) { return path.substr(0, std::min(path.rfind('/'), path.size())); }

// Bytes that are read at offsets. Throws Failure (GENIN_E_BUNDLE) where they end too soon.
class Source {
public:
    Source() = default;
    virtual ~Source() = default;
    Source(const Source &) = delete;
    Source &operator=(const Source &) = delete;
    virtual uint64_t size() const = 0;
    virtual void read(uint64_t offset, void *to, size_t bytes) const = 0;
};

class DiskFile : public Source {
public:
    explicit DiskFile(const std::string &path) : path_(path), file_(open_file(path)) {
        if (!file_) fail(path, "no such file; give a bundle's folder or .genin file");
#if defined(_WIN32)
        _fseeki64(file_, 0, SEEK_END);
        size_ = static_cast<uint64_t>(_ftelli64(file_));
#else
        fseeko(file_, 0, SEEK_END);
        size_ = static_cast<uint64_t>(ftello(file_));
#endif
    }
    ~DiskFile() override { std::fclose(file_); }

    uint64_t size() const override { return size_; }

    void read(uint64_t offset, void *to, size_t bytes) const override {
#if defined(_WIN32)
        const bool sought = _fseeki64(file_, static_cast<long long>(offset), SEEK_SET) == 0;
#else
        const bool sought = fseeko(file_, static_cast<off_t>(offset), SEEK_SET) == 0;
#endif
        if (!sought || std::fread(to, 1, bytes, file_) != bytes) fail(path_, "it ends too soon; copy the bundle again");
    }

private:
    std::string path_;
    std::FILE *file_;
    uint64_t size_ = 0;
};

bool host_has(const genin_io &io, const std::string &path) { return io.length(io.user, path.c_str()) >= 0; }

// A file of the host's own archive. The host is asked for its length once, and only where that is needed.
class HostFile : public Source {
public:
    HostFile(std::string path, const genin_io &io) : path_(std::move(path)), io_(io) {}

    uint64_t size() const override {
        if (size_ < 0) size_ = io_.length(io_.user, path_.c_str());
        if (size_ < 0) fail(path_, "the host has no such file");
        return static_cast<uint64_t>(size_);
    }

    void read(uint64_t offset, void *to, size_t bytes) const override {
        for (size_t done = 0; done < bytes;) {
            const int64_t got = io_.read(io_.user, path_.c_str(), offset + done, static_cast<uint8_t *>(to) + done, bytes - done);
            if (got <= 0 || static_cast<uint64_t>(got) > bytes - done) fail(path_, "the host's read function failed");
            done += static_cast<size_t>(got);
        }
    }

private:
    std::string path_;
    genin_io io_;
    mutable int64_t size_ = -1;
};

class Memory : public Source {
public:
    explicit Memory(const Place &place) : name_(place.path), data_(static_cast<const uint8_t *>(place.data)), size_(place.bytes) {}

    uint64_t size() const override { return size_; }

    void read(uint64_t offset, void *to, size_t bytes) const override {
        if (offset > size_ || size_ - offset < bytes) fail(name_, "it ends too soon; copy the bundle again");
        if (bytes) std::memcpy(to, data_ + offset, bytes);  // an empty member has no memory to write to
    }

private:
    std::string name_;
    const uint8_t *data_;
    uint64_t size_;
};

// Links are refused: what a bundle lists is in it, and its user may not mean to hand out another file. The Hugging Face cache alone
// keeps snapshots/REVISION/FILE as links into its own blobs/.
class Folder : public Files {
public:
    explicit Folder(std::string path) : path_(std::move(path)), root_(real_path(path_)) {}

    uint64_t size(const std::string &path) const override { return DiskFile(local_path(path)).size(); }

    void read_at(const std::string &path, uint64_t offset, void *to, size_t bytes) const override {
        DiskFile(local_path(path)).read(offset, to, bytes);
    }

    std::string local_path(const std::string &path) const override {
        const std::string place = path_ + "/" + path, actual = real_path(place);
        const bool is_absent = actual.empty();  // who opens it says so
        const std::string own = root_ + (root_.empty() || root_.back() != '/' ? "/" : "") + path;
        if (!is_absent && actual != own && !is_hub_blob(actual)) fail(place, "it is a link, or behind one");
        return place;
    }

private:
    bool is_hub_blob(const std::string &actual) const {
        const std::string snapshots = parent_of(root_), blobs = parent_of(snapshots) + "/blobs";
        return snapshots.substr(parent_of(snapshots).size()) == "/snapshots" && parent_of(actual) == blobs;
    }

    std::string path_, root_;
};

class HostFiles : public Files {
public:
    HostFiles(std::string path, const genin_io &io) : path_(std::move(path)), io_(io) {}

    uint64_t size(const std::string &path) const override { return HostFile(whole(path), io_).size(); }

    void read_at(const std::string &path, uint64_t offset, void *to, size_t bytes) const override { HostFile(whole(path), io_).read(offset, to, bytes); }

private:
    std::string whole(const std::string &path) const { return path_.empty() ? path : path_ + "/" + path; }

    std::string path_;
    genin_io io_;
};

uint64_t little(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; --i) value = value << 8 | at[i];
    return value;
}

// A zip archive (PKWARE's APPNOTE 6.3.10) whose members are stored: no compression, no encryption, with Zip64 sizes.
class Archive : public Files {
public:
    Archive(std::string path, std::unique_ptr<Source> source) : path_(std::move(path)), source_(std::move(source)) { read_directory(); }

    uint64_t size(const std::string &path) const override { return member(path).second; }

    void read_at(const std::string &path, uint64_t offset, void *to, size_t bytes) const override {
        const auto [header, size] = member(path);
        uint8_t local[30];
        if (header > source_->size() || source_->size() - header < sizeof local) fail(path_, "damaged");
        source_->read(header, local, sizeof local);
        const uint64_t start = header + sizeof local + little(local + 26, 2) + little(local + 28, 2);
        if (little(local, 4) != 0x04034b50 || start > source_->size() || source_->size() - start < size) fail(path_, "damaged at " + path);
        if (offset > size || size - offset < bytes) fail(path, "it ends too soon; copy the bundle again");
        source_->read(start + offset, to, bytes);
    }

private:
    using Member = std::pair<uint64_t, uint64_t>;  // offset of its header, size

    const Member &member(const std::string &path) const {
        const auto found = members_.find(path);
        if (found == members_.end()) fail(path_, "it lacks " + path);
        return found->second;
    }

    void read_directory() {
        uint8_t tail[22 + 65535];
        const size_t length = static_cast<size_t>(std::min<uint64_t>(source_->size(), sizeof tail));
        if (length < 22) fail(path_, "not a .genin file");
        source_->read(source_->size() - length, tail, length);
        size_t at = length - 22;
        while (little(tail + at, 4) != 0x06054b50) {
            if (at-- == 0) fail(path_, "not a .genin file");
        }
        uint64_t count = little(tail + at + 10, 2), size = little(tail + at + 12, 4), offset = little(tail + at + 16, 4);
        const uint64_t end = source_->size() - length + at;
        if ((count == 0xFFFF || offset == 0xFFFFFFFF) && end >= 20) read_zip64(end, count, size, offset);
        if (size > kDirectoryLimit || offset > source_->size() || source_->size() - offset < size) fail(path_, "damaged");
        Bytes directory(static_cast<size_t>(size));
        source_->read(offset, directory.data(), directory.size());
        size_t entry = 0;
        for (uint64_t i = 0; i < count; ++i) entry = read_entry(directory, entry);
    }

    void read_zip64(uint64_t end, uint64_t &count, uint64_t &size, uint64_t &offset) const {
        uint8_t locator[20], record[56];
        source_->read(end - sizeof locator, locator, sizeof locator);
        const uint64_t at = little(locator + 8, 8);
        if (little(locator, 4) != 0x07064b50 || at > source_->size() || source_->size() - at < sizeof record) fail(path_, "damaged");
        source_->read(at, record, sizeof record);
        if (little(record, 4) != 0x06064b50) fail(path_, "damaged");
        count = little(record + 32, 8), size = little(record + 40, 8), offset = little(record + 48, 8);
    }

    size_t read_entry(const Bytes &directory, size_t at) {
        if (directory.size() < at + 46 || little(&directory[at], 4) != 0x02014b50) fail(path_, "damaged");
        const uint8_t *entry = &directory[at];
        const size_t name = little(entry + 28, 2), extra = little(entry + 30, 2), comment = little(entry + 32, 2);
        if (directory.size() < at + 46 + name + extra + comment) fail(path_, "damaged");
        const std::string path(reinterpret_cast<const char *>(entry) + 46, name);
        uint64_t packed = little(entry + 20, 4), size = little(entry + 24, 4), header = little(entry + 42, 4);
        for (size_t field = 0; field + 4 <= extra;) {
            const uint8_t *data = entry + 46 + name + field;
            const size_t length = little(data + 2, 2);
            if (field + 4 + length > extra) fail(path_, "damaged");
            if (little(data, 2) == 1) {
                const uint8_t *value = data + 4, *last = value + length;
                for (uint64_t *wide : {&size, &packed, &header}) {
                    if (*wide == 0xFFFFFFFF && last - value >= 8) *wide = little(value, 8), value += 8;
                }
            }
            field += 4 + length;
        }
        if (path.empty() || path.back() != '/') {
            if (little(entry + 10, 2) != 0 || packed != size) fail(path_, "member " + path + " is compressed; pack the bundle with genin export");
            if (little(entry + 8, 2) & 1) fail(path_, "member " + path + " is encrypted");
            if (size > source_->size() - members_bytes_) fail(path_, "its members are larger than the file; copy the bundle again");
            members_bytes_ += size;
            if (!is_inside(path)) fail(path_, "member '" + path + "' would lie outside of the bundle");
            if (!members_.emplace(path, std::make_pair(header, size)).second) fail(path_, "member " + path + " occurs twice");
        }
        return at + 46 + name + extra + comment;
    }

    std::string path_;
    std::unique_ptr<Source> source_;
    std::unordered_map<std::string, Member> members_;
    uint64_t members_bytes_ = 0;
};

bool is_folder(const std::string &path) {
#if defined(_WIN32)
    struct _stat64 info {};
    return _wstat64(widen(path).c_str(), &info) == 0 && (info.st_mode & S_IFMT) == S_IFDIR;
#else
    struct stat info {};
    return stat(path.c_str(), &info) == 0 && (info.st_mode & S_IFMT) == S_IFDIR;
#endif
}

// What Windows opens in place of a file, whatever is behind a dot: "nul.txt", "COM1", "COM" and a superscript digit.
bool is_device(const std::string &part) {
    std::string name = part.substr(0, part.find('.'));
    for (char &sign : name) sign = static_cast<char>(sign >= 'a' && sign <= 'z' ? sign - 'a' + 'A' : sign);
    const std::string number = name.substr(std::min<size_t>(3, name.size()));
    const bool is_plain = number.size() == 1 && number[0] >= '0' && number[0] <= '9';
    const bool is_digit = is_plain || number == "\xc2\xb9" || number == "\xc2\xb2" || number == "\xc2\xb3";
    if (is_digit && (name.rfind("COM", 0) == 0 || name.rfind("LPT", 0) == 0)) return true;
    return name == "CON" || name == "PRN" || name == "AUX" || name == "NUL" || name == "CONIN$" || name == "CONOUT$";
}

}  // namespace

bool is_inside(const std::string &path) {
    const auto is_plain = [](char sign) { return static_cast<uint8_t>(sign) >= 32 && !std::strchr("\\:*?\"<>|\x7f", sign); };
    if (path.size() > 1000 || !std::all_of(path.begin(), path.end(), is_plain)) return false;
    for (size_t start = 0; start <= path.size();) {
        const size_t end = std::min(path.find('/', start), path.size());
        const std::string part = path.substr(start, end - start);
        if (part.empty() || part.size() > 200 || part.back() == '.' || part.back() == ' ' || is_device(part)) return false;
        start = end + 1;
    }
    return true;
}

std::string absolute_path(const std::string &path) {
    if (path.empty()) return path;
#if defined(_WIN32)
    const std::unique_ptr<wchar_t, decltype(&std::free)> found(_wfullpath(nullptr, widen(path).c_str(), 0), &std::free);
    return found ? narrow(found.get()) : path;
#else
    const std::string here = path[0] == '/' ? std::string() : real_path(".");
    return here.empty() ? path : here + "/" + path;
#endif
}

Bytes Files::read(const std::string &path, uint64_t limit) const {
    const uint64_t length = size(path);
    if (length > limit) fail(path, "longer than it may be");
    Bytes bytes(static_cast<size_t>(length));
    if (length) read_at(path, 0, bytes.data(), bytes.size());
    return bytes;
}

std::unique_ptr<Files> open_files(const Place &place) {
    const std::string &path = place.path;
    if (place.data) return std::make_unique<Archive>(path, std::make_unique<Memory>(place));
    if (!place.has_io) {
        if (is_folder(path)) return std::make_unique<Folder>(path);
        return std::make_unique<Archive>(path, std::make_unique<DiskFile>(path));
    }
    // What a host says of a folder's length is its own affair.
    const bool is_named_so = path.size() > kSuffix.size() && path.compare(path.size() - kSuffix.size(), kSuffix.size(), kSuffix) == 0;
    const bool is_archive = is_named_so && host_has(place.io, path) && !host_has(place.io, path + "/manifest.json");
    if (is_archive) return std::make_unique<Archive>(path, std::make_unique<HostFile>(path, place.io));
    return std::make_unique<HostFiles>(path, place.io);
}

}  // namespace genin
