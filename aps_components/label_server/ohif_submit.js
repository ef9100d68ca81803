// Two buttons below MONAI Label's panel in OHIF, which has none to hand a label in: MONAI Label 0.8.5's own client can,
// but nothing calls it. They send the segments that are shown to the server that served this page.
(() => {
  const SEGMENTATION = '1'; // the panel's own, always the first
  const NO_CLASS = 'background';

  const say = (message, type) =>
    window.services.uiNotificationService.show({ title: 'Submit label', message, type, duration: 6000 });

  const series = () => {
    const { viewportGridService, displaySetService } = window.services;
    const { viewports, activeViewportId } = viewportGridService.getState();
    const [shown] = viewports.get(activeViewportId).displaySetInstanceUIDs;
    return displaySetService.getDisplaySetByUID(shown).SeriesInstanceUID;
  };

  // Voxels as the scan has them, x fastest, numbered from 1 in the order of the names.
  const drawn = () => {
    const { segmentationService } = window.services;
    const volume = segmentationService.getLabelmapVolume(SEGMENTATION);
    const segments = Object.values(segmentationService.getSegmentations()[0].config.segments);
    const named = segments.filter(segment => segment && segment.label !== NO_CLASS);
    const numbers = new Uint8Array(256);
    named.forEach((segment, place) => (numbers[segment.segmentIndex] = place + 1));
    const voxels = Uint8Array.from(volume.voxelManager.getCompleteScalarDataArray(), value => numbers[value]);
    return { voxels, names: named.map(segment => segment.label) };
  };

  const submit = async tag => {
    try {
      const { voxels, names } = drawn();
      const form = new FormData();
      form.append('params', JSON.stringify({ label_info: names.map(name => ({ name })) }));
      form.append('label', new Blob([voxels]), 'label.bin');
      const query = new URLSearchParams({ image: series(), tag });
      const answer = await fetch(`/datastore/label?${query}`, { method: 'PUT', body: form });
      const said = await answer.json().catch(() => ({}));
      say(answer.ok ? `Stored as ${tag}` : said.detail || `Refused: ${answer.status}`, answer.ok ? 'success' : 'error');
    } catch (error) {
      say(`Nothing to hand in: run a model, or open the scan, first (${error.message})`, 'error');
    }
  };

  const button = (text, tag) => {
    const made = document.createElement('button');
    made.textContent = text;
    made.className = 'actionButton';
    made.style.margin = '8px 4px';
    made.style.width = 'auto';
    made.onclick = async () => {
      made.disabled = true;
      await submit(tag);
      made.disabled = false;
    };
    return made;
  };

  new MutationObserver(() => {
    const tabs = document.querySelector('.monaiLabelPanel .tabs');
    if (!tabs || document.getElementById('aps-submit')) return;
    const place = document.createElement('div');
    place.id = 'aps-submit';
    place.append(button('Submit label', 'final'), button('Submit unfinished', 'partial'));
    tabs.parentNode.insertBefore(place, tabs);
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
