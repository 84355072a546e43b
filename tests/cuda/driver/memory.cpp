// The device's memory: the host's. Every allocation ends at an inaccessible page, but for a band of known bytes where its size is not a multiple of
// the alignment, and begins behind such a band and such a page. What is freed becomes inaccessible as well, for a while: who uses it ends the program.
#include "memory.hpp"
#include "standin.hpp"
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <sys/mman.h>

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256;
constexpr unsigned char BAND = 0xa5;
// So much of what was freed stays inaccessible.
constexpr size_t MOST_FREED = 4096;

struct Allocation {
    unsigned char* pages;
    // With the two inaccessible pages.
    size_t mapped, bytes;
    bool counted;
};

std::map<uintptr_t, Allocation> living;
std::deque<std::pair<unsigned char*, size_t>> freed;
size_t used_bytes = 0, most_bytes = 0;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

void check_bands(const unsigned char* start, const Allocation& a)
{
    const unsigned char *first = a.pages + PAGE, *last = a.pages + a.mapped - PAGE;
    for (const unsigned char* p = first; p < last; ++p) {
        if (p == start) p += a.bytes;
        if (p >= last) break;
        if (*p == BAND) continue;
        const auto offset = p - start;
        standin::die("an allocation of " + std::to_string(a.bytes) + " bytes was written at byte " + std::to_string(offset));
    }
}

} // namespace

namespace memory {

void* allocate(size_t bytes)
{
    if (bytes > TOTAL || rounded(bytes, 512) > TOTAL - used_bytes) return nullptr;
    const size_t inner = rounded(rounded(bytes, ALIGNMENT), PAGE), mapped = inner + 2 * PAGE;
    void* mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    auto* pages = static_cast<unsigned char*>(mapping);
    if (mapping == MAP_FAILED || mprotect(pages + PAGE, inner, PROT_READ | PROT_WRITE) != 0) standin::die("the host has no memory, or no more mappings");
    unsigned char* start = pages + PAGE + inner - rounded(bytes, ALIGNMENT);
    std::memset(pages + PAGE, BAND, static_cast<size_t>(start - pages) - PAGE);
    std::memset(start, 0xff, bytes);
    std::memset(start + bytes, BAND, rounded(bytes, ALIGNMENT) - bytes);
    living[reinterpret_cast<uintptr_t>(start)] = {pages, mapped, bytes, true};
    used_bytes += rounded(bytes, 512);
    most_bytes = std::max(most_bytes, used_bytes);
    return start;
}

void release_later(void* start)
{
    const auto at = living.find(reinterpret_cast<uintptr_t>(start));
    if (at == living.end() || !at->second.counted) standin::die("what is freed was not allocated, or was freed before");
    at->second.counted = false;
    used_bytes -= rounded(at->second.bytes, 512);
}

void release(void* start)
{
    const auto at = living.find(reinterpret_cast<uintptr_t>(start));
    if (at == living.end()) standin::die("what is freed was not allocated, or was freed before");
    const Allocation a = at->second;
    check_bands(static_cast<unsigned char*>(start), a);
    if (a.counted) used_bytes -= rounded(a.bytes, 512);
    living.erase(at);
    if (mmap(a.pages, a.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) standin::die("memory cannot be hidden");
    freed.emplace_back(a.pages, a.mapped);
    if (freed.size() > MOST_FREED) {
        munmap(freed.front().first, freed.front().second);
        freed.pop_front();
    }
}

void expect(const void* start, size_t bytes, const std::string& what)
{
    if (bytes == 0) return;
    const auto at = reinterpret_cast<uintptr_t>(start);
    auto next = living.upper_bound(at);
    if (next != living.begin()) {
        const auto& [first, a] = *--next;
        if (at >= first && at + bytes <= first + a.bytes) return;
        if (at < first + a.bytes) {
            standin::die(what + ": " + std::to_string(bytes) + " bytes from byte " + std::to_string(at - first) + " of an allocation of " + std::to_string(a.bytes));
        }
    }
    standin::die(what + ": " + std::to_string(bytes) + " bytes where nothing is allocated");
}

size_t used() { return used_bytes; }

size_t& most_used() { return most_bytes; }

} // namespace memory
